"""A server that shuts down: a transaction may end, everybody is told 421 before the FIN, and only then comes CONNECTION_CLOSE.

The server begins to shut down when it sees the recipient drain@here.example.
"""

from smtp_quic import SHUTDOWN, body, connected, main


async def script():
    async with connected() as connection:
        idle, busy = connection.open(), connection.open()
        idle.send(b"EHLO client.example\r\n")
        assert await idle.codes(2) == [220, 250]
        busy.send(b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<drain@here.example>\r\n")
        assert await busy.codes(4) == [220, 250, 250, 250]
        # Who does nothing is told at once, and so is who comes now.
        assert await idle.codes(1) == [421]
        await idle.end()
        late = connection.open()
        late.send(b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n")
        # As the greeting, or behind it.
        codes = await late.codes(1)
        assert codes == [421] or codes + await late.codes(1) == [220, 421], codes
        await late.end()
        # The transaction goes on to its end.
        content = body(7, 2_000)
        busy.send(f"BDAT {len(content)} LAST\r\n".encode() + content)
        assert await busy.codes(2) == [250, 421]
        await busy.end()
        assert connection.terminated is None
        for stream in (idle, late, busy):
            stream.send(b"", fin=True)
        assert await connection.closed() == SHUTDOWN


main(script)
