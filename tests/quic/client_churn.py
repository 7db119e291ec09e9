"""Streams that are opened and thrown away, over and over, end the connection with EXCESSIVE_LOAD."""

import asyncio

from smtp_quic import CANCELLED, EXCESSIVE_LOAD, connected, main


async def script():
    async with connected() as connection:
        for _ in range(2_000):
            if connection.terminated is not None:
                break
            stream = connection.open()
            stream.send(b"EHLO client.example\r\n")
            stream.reset(CANCELLED)
            stream.stop(CANCELLED)
            await asyncio.sleep(0.001)
        assert await connection.closed() == EXCESSIVE_LOAD


main(script)
