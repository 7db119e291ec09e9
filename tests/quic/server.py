"""A server that takes everything but mail for `nobody`."""

from smtp_quic_server import main

main()
