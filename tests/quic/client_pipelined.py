"""EHLO first; then MAIL, RCPT and DATA in a group, as over TCP. The implied extensions are listed, STARTTLS is not."""

from smtp_quic import body, connected, main


async def script():
    async with connected() as connection:
        stream = connection.open()
        stream.send(b"EHLO client.example\r\n")
        (greeting, _), (code, lines) = await stream.replies(2)
        assert (greeting, code) == (220, 250)
        keywords = {line.split()[0] for line in lines[1:]}
        assert {"PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES"} <= keywords, keywords
        assert "STARTTLS" not in keywords, keywords
        stream.send(b"MAIL FROM:<a@client.example> BODY=8BITMIME\r\nRCPT TO:<alice@here.example>\r\nDATA\r\n")
        assert await stream.codes(3) == [250, 250, 354]
        stream.send(body(2, 3_000) + b".\r\nQUIT\r\n")
        assert await stream.codes(2) == [250, 221]
        await stream.end()


main(script)
