"""Sends messages of 4 KiB over one session: smtplib_source.py PORT MESSAGES, to 127.0.0.1."""
import smtplib
import sys

content = b"Subject: bench\r\n\r\n" + (b"x" * 62 + b"\r\n") * 64
with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as session:
    for _ in range(int(sys.argv[2])):
        session.sendmail("a@perf.test", ["b@perf.test"], content)
