"""A unidirectional stream is against the mapping: its limit is 0, and QUIC closes the connection."""

from smtp_quic import STREAM_LIMIT_ERROR, connected, main


async def script():
    async with connected() as connection:
        assert connection._quic._remote_max_streams_uni == 0
        # Now pretend not to have heard that.
        connection._quic._remote_max_streams_uni = 1
        number = connection._quic.get_next_available_stream_id(is_unidirectional=True)
        connection._quic.send_stream_data(number, b"EHLO client.example\r\n")
        connection.transmit()
        code = await connection.closed()
        assert code == STREAM_LIMIT_ERROR, hex(code)


main(script)
