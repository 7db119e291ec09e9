"""The server's side, from docs/smtp-over-quic.md alone. `SCRIPT CERTFILE KEYFILE …` prints `listening PORT`, then a line of
JSON for each thing that happens.
"""

import asyncio
import hashlib
import json
import sys

from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

from smtp_quic import RELAY, Connection


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


class Session:
    """One stream."""

    def __init__(self, stream):
        self.stream = stream
        self.input = b""
        self.greeted = False
        self.recipients = 0
        # Octets of a chunk that are still to come; None outside of BDAT.
        self.chunk = None
        self.last = False
        self.data = False
        self.content = b""
        self.over = False

    def reply(self, text):
        self.stream.send(text.encode() + b"\r\n")

    def feed(self, data, fin):
        self.input += data
        while not self.over and self.step():
            pass
        if fin and not self.over:
            # Section 9: no abort behind complete commands, the end of the transaction within content.
            self.finish()

    def confirmed(self):
        """Whether the handshake is complete: until then nothing past the first EHLO is looked at (section 8)."""
        return self.stream.connection.handshake is not None

    def step(self):
        if self.greeted and not self.confirmed():
            return False
        if self.chunk is not None:
            return self.take_chunk()
        if self.data:
            return self.take_data()
        line, end, rest = self.input.partition(b"\r\n")
        if not end:
            return False
        self.input = rest
        verb, _, argument = line.decode().partition(" ")
        getattr(self, "on_" + verb.lower(), self.on_unknown)(argument)
        return True

    def greet(self):
        """The 220 and the reply to EHLO go together; nothing is said before something came."""
        self.reply("220 aioquic.example ESMTP")

    def on_ehlo(self, name):
        if not self.greeted:
            self.greet()
        self.greeted = True
        self.reply(
            "250-aioquic.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-SIZE 1000000\r\n"
            "250 ENHANCEDSTATUSCODES"
        )

    def on_mail(self, _):
        self.recipients, self.content = 0, b""
        self.reply("250 2.1.0 ok")

    def on_rcpt(self, argument):
        if "nobody" in argument:
            return self.reply("550 5.1.1 no such mailbox")
        self.recipients += 1
        self.reply("250 2.1.5 ok")

    def on_data(self, _):
        if not self.recipients:
            return self.reply("554 5.5.1 no recipients")
        self.data = True
        self.reply("354 go on")

    def on_bdat(self, argument):
        octets, _, last = argument.partition(" ")
        self.chunk, self.last = int(octets), last.upper() == "LAST"
        self.begin_chunk()

    def begin_chunk(self):
        """A server may refuse here, before the octets have come."""

    def on_quit(self, _):
        self.reply("221 2.0.0 bye")
        self.finish()

    def on_starttls(self, _):
        self.reply("503 5.5.1 there is TLS already")

    def on_rset(self, _):
        self.recipients = 0
        self.reply("250 2.0.0 ok")

    def on_noop(self, _):
        self.reply("250 2.0.0 ok")

    def on_unknown(self, _):
        self.reply("500 5.5.2 what?")

    def take_chunk(self):
        taken = self.input[: self.chunk]
        self.content, self.input = self.content + taken, self.input[len(taken) :]
        self.chunk -= len(taken)
        if self.chunk:
            return False
        self.chunk = None
        if not self.recipients:
            self.reply("554 5.5.1 no recipients")
        elif self.last:
            self.accept()
        else:
            self.reply("250 2.0.0 chunk taken")
        return True

    def take_data(self):
        # The dot may be the first line.
        content, end, rest = (b"\r\n" + self.input).partition(b"\r\n.\r\n")
        if not end:
            return False
        self.content, self.input, self.data = content[2:].replace(b"\r\n..", b"\r\n.") + b"\r\n", rest, False
        self.accept()
        return True

    def accept(self):
        digest = hashlib.sha256(self.content).hexdigest()
        say("mail", stream=self.stream.number, octets=len(self.content), sha256=digest)
        self.recipients, self.content = 0, b""
        self.reply("250 2.0.0 taken")

    def finish(self):
        """FIN behind the last reply."""
        self.over = True
        self.stream.send(b"", fin=True)


class Server(Connection):
    session = Session

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sessions = {}

    def quic_event_received(self, event):
        super().quic_event_received(event)
        if isinstance(event, HandshakeCompleted):
            say("handshake", early=event.early_data_accepted, alpn=event.alpn_protocol)
            for session in list(self.sessions.values()):
                session.feed(b"", False)
        elif isinstance(event, StreamDataReceived):
            if event.stream_id not in self.sessions:
                self.sessions[event.stream_id] = self.session(self.streams[event.stream_id])
            self.sessions[event.stream_id].feed(event.data, event.end_stream)
            if event.end_stream:
                say("fin", stream=event.stream_id)
        elif isinstance(event, StreamReset):
            say("reset", stream=event.stream_id, code=event.error_code)
        elif isinstance(event, ConnectionTerminated):
            say("closed", code=event.error_code, frame=event.frame_type)


def main(server=Server, alpn=(RELAY,), tickets=None):
    """Serves until it is killed. `tickets` is where they are kept; by default each is good for one connection."""
    kept = {} if tickets is None else tickets

    async def script():
        config = QuicConfiguration(is_client=False, alpn_protocols=list(alpn))
        config.load_cert_chain(sys.argv[1], sys.argv[2])
        config.idle_timeout = 660
        config.max_stream_data, config.max_data = 512 << 10, 4 << 20
        listening = await serve(
            "127.0.0.1",
            0,
            configuration=config,
            create_protocol=server,
            session_ticket_handler=lambda ticket: kept.update({ticket.ticket: ticket}),
            session_ticket_fetcher=lambda name: kept.pop(name, None),
        )
        port = listening._transport.get_extra_info("sockname")[1]
        print("listening", port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(script())
