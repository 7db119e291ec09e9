"""Takes the mail and resets the stream instead of answering."""

from smtp_quic import INTERNAL
from smtp_quic_server import Server, Session, main


class Resetting(Session):
    def accept(self):
        self.over = True
        self.stream.reset(INTERNAL)


class Server(Server):
    session = Resetting


main(Server)
