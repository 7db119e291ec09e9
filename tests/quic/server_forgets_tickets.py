"""A server that gives tickets and refuses the early data that comes with them: it remembers none."""

from smtp_quic_server import main


class Forgetful(dict):
    def update(self, _):
        pass


main(tickets=Forgetful())
