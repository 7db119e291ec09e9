"""Closes the connection when a transaction begins, with the error code that is the third argument."""

import sys

from smtp_quic_server import Server, Session, main


class Closing(Session):
    def on_mail(self, _):
        self.over = True
        self.stream.connection.leave(int(sys.argv[3]))


class Server(Server):
    session = Closing


main(Server)
