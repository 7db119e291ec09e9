"""RESET_STREAM and FIN within the content discard the mail; the other session does not notice. FIN behind
commands is no abort.
"""

from smtp_quic import CANCELLED, FLIGHT, body, connected, flight, main

HALF = (
    b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<alice@here.example>\r\n"
    b"BDAT 1000 LAST\r\nX-Number: half\r\n"
)


async def script():
    async with connected() as connection:
        reset, ended, other, closed = (connection.open() for _ in range(4))
        reset.send(HALF)
        ended.send(HALF, fin=True)
        other.send(b"EHLO client.example\r\n")
        assert await reset.codes(4) == [220, 250, 250, 250]
        reset.reset(CANCELLED)
        assert await ended.codes(4) == [220, 250, 250, 250]
        await ended.end()
        other.send(flight(body(4, 1_000)))
        assert await other.codes(7) == [220, 250, *FLIGHT[1:]]
        await other.end()
        closed.send(flight(body(5, 1_000), quit=False), fin=True)
        assert await closed.codes(5) == FLIGHT[:5]
        await closed.end()


main(script)
