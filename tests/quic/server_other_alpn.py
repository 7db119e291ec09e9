"""Something that is no SMTP server."""

from smtp_quic_server import main

main(alpn=["h3"])
