"""A mail in early data: accepted by the server that gave the ticket, refused by the one whose port is the fourth argument,
and delivered once by each.
"""

import asyncio

from smtp_quic import FLIGHT, arguments, body, connected, flight, main


async def script():
    elsewhere = int(arguments()[3][0])
    tickets = []
    async with connected(tickets=tickets) as connection:
        stream = connection.open()
        stream.send(b"EHLO client.example\r\nQUIT\r\n")
        assert await stream.codes(3) == [220, 250, 221]
        await connection.until(lambda: tickets)
    for number, (port, accepted) in enumerate([(None, True), (elsewhere, False)]):
        async with connected(port=port, wait=False, session_ticket=tickets[0]) as connection:
            stream = connection.open()
            # Leaves in the first flight, behind the ClientHello.
            stream.send(flight(body(number, 800)))
            assert connection.handshake is None
            assert await stream.codes(6) == FLIGHT
            await stream.end()
            assert connection.handshake.early_data_accepted is accepted, (port, connection.handshake)
        await asyncio.sleep(0.1)


main(script)
