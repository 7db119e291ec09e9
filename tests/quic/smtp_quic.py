"""SMTP over QUIC for Python, from docs/smtp-over-quic.md alone, on aioquic: what the scripts beside it share.

A client script is called as `SCRIPT HOST PORT CAFILE …` and fails by an assertion.
"""

import asyncio
import sys
from contextlib import asynccontextmanager

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

RELAY = "smtp-quic-00"

# Section 10.
NO_ERROR, INTERNAL, PROTOCOL, CANCELLED, EXCESSIVE_LOAD = range(5)
UNSPECIFIED, SHUTDOWN, TIMEOUT, EARLY_DATA_REFUSED, POLICY = range(5, 10)

# QUIC's own (RFC 9000 section 20.1, RFC 9001 section 4.8).
STREAM_LIMIT_ERROR = 0x4
NO_APPLICATION_PROTOCOL = 0x178

# Nothing here takes longer.
PATIENCE = 20


class Stream:
    """One session."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.received = b""
        self.ended = False
        self.reset_by_peer = None
        self.stopped_by_peer = None

    def send(self, data, fin=False):
        self.connection._quic.send_stream_data(self.number, data, fin)
        self.connection.transmit()

    def reset(self, code):
        self.connection._quic.reset_stream(self.number, code)
        self.connection.transmit()

    def stop(self, code):
        self.connection._quic.stop_stream(self.number, code)
        self.connection.transmit()

    async def until(self, condition):
        await self.connection.until(condition)

    async def replies(self, n):
        """The next n replies, each as (code, lines)."""
        return [await self.reply() for _ in range(n)]

    async def reply(self):
        lines = []
        while True:
            await self.until(lambda: b"\r\n" in self.received or self.ended or self.reset_by_peer is not None)
            assert b"\r\n" in self.received, f"no reply: {self.received!r}, reset {self.reset_by_peer}"
            line, _, self.received = self.received.partition(b"\r\n")
            lines.append(line[4:].decode())
            if line[3:4] != b"-":
                return int(line[:3]), lines

    async def codes(self, n):
        return [code for code, _ in await self.replies(n)]

    async def end(self):
        """The peer's FIN, with nothing before it."""
        await self.until(lambda: self.ended or self.reset_by_peer is not None)
        assert self.reset_by_peer is None, f"reset with {self.reset_by_peer}"
        assert self.received == b"", self.received


class Connection(QuicConnectionProtocol):
    """A QUIC connection that remembers what the peer did, either side's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.streams = {}
        self.opened = 0
        self.handshake = None
        self.terminated = None
        self.waker = None

    def open(self):
        """A client's next stream. aioquic would give the same number again until something was sent."""
        stream = Stream(self, 4 * self.opened)
        self.opened += 1
        self.streams[stream.number] = stream
        return stream

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, ConnectionTerminated):
            self.terminated = event
        elif isinstance(event, (StreamDataReceived, StreamReset, StopSendingReceived)):
            stream = self.streams.setdefault(event.stream_id, Stream(self, event.stream_id))
            if isinstance(event, StreamDataReceived):
                stream.received += event.data
                stream.ended |= event.end_stream
            elif isinstance(event, StreamReset):
                stream.reset_by_peer = event.error_code
            else:
                stream.stopped_by_peer = event.error_code
        self.wake()

    def wake(self):
        if self.waker is not None and not self.waker.done():
            self.waker.set_result(None)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert self.terminated is None, f"closed: {self.terminated}"
                # Several may wait: one that finds the waker in use shares it.
                if self.waker is None or self.waker.done():
                    self.waker = asyncio.get_running_loop().create_future()
                await asyncio.shield(self.waker)

    async def closed(self):
        """The code that the peer closed the connection with."""
        async with asyncio.timeout(PATIENCE):
            await self.wait_closed()
        return self.terminated.error_code

    def leave(self, code=NO_ERROR):
        """Closes the connection from this side."""
        self.close(error_code=code)


def arguments():
    host, port, cafile, *more = sys.argv[1:]
    return host, int(port), cafile, more


def configuration(cafile, alpn=(RELAY,), **more):
    alpn = None if alpn is None else list(alpn)
    config = QuicConfiguration(is_client=True, alpn_protocols=alpn, server_name="localhost", **more)
    config.load_verify_locations(cafile)
    # Section 12.
    config.idle_timeout = 660
    return config


@asynccontextmanager
async def connected(alpn=(RELAY,), port=None, wait=True, tickets=None, **more):
    """A connection to the server of the arguments, closed with NO_ERROR in the end."""
    host, its_port, cafile, _ = arguments()
    config = configuration(cafile, alpn, **more)
    keep = tickets.append if tickets is not None else None
    async with connect(
        host,
        port or its_port,
        configuration=config,
        create_protocol=Connection,
        session_ticket_handler=keep,
        wait_connected=wait,
    ) as connection:
        yield connection
        connection.leave()


def flight(body, quit=True):
    """A whole mail at once (section 5)."""
    head = "EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<alice@here.example>\r\n"
    return f"{head}BDAT {len(body)} LAST\r\n".encode() + body + (b"QUIT\r\n" if quit else b"")


# What it is answered with.
FLIGHT = [220, 250, 250, 250, 250, 221]


def body(number, octets):
    text = f"X-Number: {number}\r\n\r\n".encode()
    return text + b"0123456789abcdef\r\n" * ((octets - len(text)) // 18 + 1)


def main(script):
    asyncio.run(script())
    print("ok")
