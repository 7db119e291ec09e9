"""Who does not offer the protocol's name is refused in the handshake, with no_application_protocol."""

from smtp_quic import NO_APPLICATION_PROTOCOL, connected, main


async def script():
    for alpn in (["h3"], ["smtp"], ["submission-quic-00"], None):
        try:
            async with connected(alpn=alpn, wait=False) as connection:
                connection.transmit()
                code = await connection.closed()
        except ConnectionError:
            code = connection.terminated.error_code
        assert code == NO_APPLICATION_PROTOCOL, (alpn, hex(code))


main(script)
