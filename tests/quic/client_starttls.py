"""STARTTLS is refused, and the session goes on."""

from smtp_quic import FLIGHT, body, connected, flight, main


async def script():
    async with connected() as connection:
        stream = connection.open()
        stream.send(b"EHLO client.example\r\nSTARTTLS\r\n")
        _, _, (code, lines) = await stream.replies(3)
        assert (code, lines[0][:5]) == (503, "5.5.1"), (code, lines)
        stream.send(flight(body(3, 500)))
        assert await stream.codes(5) == FLIGHT[1:]
        await stream.end()


main(script)
