"""A real SMTP server for tests: it takes every message and keeps it, and can be told to refuse.

It speaks as much of RFC 5321 as a client needs, and takes any sign-in with AUTH PLAIN, a thread a
connection.
"""

import email
import email.policy
import socketserver
import threading
from email.message import EmailMessage
from typing import Self


class Mailbox:
    """The server; use it as a context manager."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.refuses = False
        mailbox = self

        class Conversation(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                mailbox._talk(self)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Conversation)
        self.port: int = self._server.server_address[1]

    def _talk(self, client: socketserver.StreamRequestHandler) -> None:
        client.wfile.write(b"220 mailbox ESMTP\r\n")
        while line := client.rfile.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                client.wfile.write(b"250-mailbox\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n")
            elif verb == b"AUTH":
                client.wfile.write(b"235 welcome\r\n")
            elif verb == b"RCPT" and self.refuses:
                client.wfile.write(b"550 no such mailbox\r\n")
            elif verb == b"DATA":
                client.wfile.write(b"354 go on\r\n")
                self._take(client)
            elif verb == b"QUIT":
                client.wfile.write(b"221 bye\r\n")
                return
            else:
                if verb == b"RCPT":
                    self.recipients.append(line.decode().split(":", 1)[1].strip(" <>\r\n"))
                client.wfile.write(b"250 fine\r\n")

    def _take(self, client: socketserver.StreamRequestHandler) -> None:
        lines = []
        while (line := client.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        message = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        self.messages.append(message)
        client.wfile.write(b"250 taken\r\n")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
