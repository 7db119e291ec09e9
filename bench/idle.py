#!/usr/bin/env python3
"""Memory of idle sessions: opens N of them to a server, greets with EHLO, and prints resident KiB per session.

    bench/idle.py PORT PID [N] [tls]

PORT and PID are those of a running `smtp sink` or `smtp serve`; N is 10,000 unless given, and both sides need as many
file descriptors (ulimit -n). With `tls`, under implicit TLS. One after another, only to 127.0.0.1.
"""
import resource
import socket
import ssl
import sys
import time

port, pid = int(sys.argv[1]), int(sys.argv[2])
n = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
tls = ssl.create_default_context() if "tls" in sys.argv[4:] else None
if tls:
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resident():
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def session():
    s = socket.create_connection(("127.0.0.1", port))
    if tls:
        s = tls.wrap_socket(s)
    assert s.recv(200).startswith(b"220")
    s.sendall(b"EHLO idle.test\r\n")
    assert s.recv(2000).startswith(b"250")
    return s


warm = [session() for _ in range(50)]
before = resident()
idle = [session() for _ in range(n)]
time.sleep(1)
print(f"{(resident() - before) / n:.2f} KiB resident per idle session, {n} sessions")
