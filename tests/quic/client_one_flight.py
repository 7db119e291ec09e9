"""A whole mail in one flight, and an orderly end: 221, the server's FIN, ours, then CONNECTION_CLOSE by the client."""

import asyncio

from smtp_quic import FLIGHT, body, connected, flight, main


async def script():
    async with connected() as connection:
        assert connection.handshake.alpn_protocol == "smtp-quic-00"
        stream = connection.open()
        stream.send(flight(body(1, 20_000)))
        assert await stream.codes(6) == FLIGHT
        await stream.end()
        stream.send(b"", fin=True)
        # The client is the one to close.
        await asyncio.sleep(1)
        assert connection.terminated is None, connection.terminated


main(script)
