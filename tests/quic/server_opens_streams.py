"""Opens a stream to the client, which must not be: of the kind that is the third argument, `uni` or `bidi`."""

import sys

from smtp_quic_server import Server, Session, main


class Intruding(Session):
    def on_mail(self, _):
        quic = self.stream.connection._quic
        # Pretend not to have heard of the limits.
        assert quic._remote_max_streams_uni == quic._remote_max_streams_bidi == 0
        quic._remote_max_streams_uni = quic._remote_max_streams_bidi = 1
        number = quic.get_next_available_stream_id(is_unidirectional=sys.argv[3] == "uni")
        quic.send_stream_data(number, b"220 hello\r\n")
        self.stream.connection.transmit()


class Server(Server):
    session = Intruding


main(Server)
