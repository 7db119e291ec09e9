"""Shuts down when it has taken a mail: 250, 421, FIN; CONNECTION_CLOSE with SHUTDOWN when the client has had its moment."""

import asyncio

from smtp_quic import SHUTDOWN
from smtp_quic_server import Server, Session, main


class Draining(Session):
    def accept(self):
        super().accept()
        self.reply("421 4.3.2 shutting down")
        self.finish()
        asyncio.get_running_loop().call_later(1, self.stream.connection.leave, SHUTDOWN)


class Server(Server):
    session = Draining


main(Server)
