"""Refuses content while it comes: the reply first, then STOP_SENDING, then the end of the session."""

from smtp_quic import NO_ERROR
from smtp_quic_server import Server, Session, main


class Refusing(Session):
    def take_chunk(self):
        if len(self.input) < 1_000:
            return False
        self.reply("552 5.3.4 too much")
        self.stream.stop(NO_ERROR)
        self.finish()
        return False


class Server(Server):
    session = Refusing


main(Server)
