"""Content that is far too large is refused while it comes: the reply first, then STOP_SENDING; a new stream works."""

import asyncio

from smtp_quic import FLIGHT, NO_ERROR, body, connected, flight, main


async def script():
    async with connected() as connection:
        stream = connection.open()
        stream.send(
            b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<alice@here.example>\r\n"
            b"BDAT 900000000 LAST\r\n"
        )
        # The server may read for a while to be polite.
        for _ in range(100):
            if stream.stopped_by_peer is not None:
                break
            stream.send(b"x" * 50_000)
            await asyncio.sleep(0.02)
        codes = await stream.codes(5)
        assert codes[:4] == [220, 250, 250, 250] and codes[4] in (552, 554), codes
        assert stream.stopped_by_peer == NO_ERROR, stream.stopped_by_peer
        another = connection.open()
        another.send(flight(body(6, 1_000)))
        assert await another.codes(6) == FLIGHT


main(script)
