"""Ten sessions at once on one connection; one that is left alone and one that is abandoned do them no harm."""

import asyncio

from smtp_quic import CANCELLED, FLIGHT, body, connected, flight, main


async def script():
    async with connected() as connection:
        idle, abandoned = connection.open(), connection.open()
        idle.send(b"EHLO client.example\r\n")
        abandoned.send(b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n")
        streams = [connection.open() for _ in range(10)]
        for number, stream in enumerate(streams):
            stream.send(flight(body(number, 5_000)))
        abandoned.reset(CANCELLED)
        for codes in await asyncio.gather(*(stream.codes(6) for stream in streams)):
            assert codes == FLIGHT, codes
        for stream in streams:
            await stream.end()
        idle.send(b"QUIT\r\n")
        assert await idle.codes(3) == [220, 250, 221]
        await idle.end()


main(script)
