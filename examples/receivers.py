"""The world outside the queue, for real: an SMTP server with a mailbox, and an HTTP receiver of webhooks."""

import contextlib
import hashlib
import hmac
import json
import mailbox
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox

FAIL_EVERY = 5


def free_port(wished: int = 0) -> int:
    """Return the wished port of this machine if nobody listens on it, and another one otherwise."""
    for port in (wished, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("this machine has no free port")


class MailServer:
    """An SMTP server that files what it receives in a Maildir."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._controller = Controller(Mailbox(folder), hostname="127.0.0.1", port=free_port())

    def __enter__(self) -> "MailServer":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._controller.port}"

    def mails(self) -> list[tuple[str, str, str]]:
        """Return recipient, subject and text of each mail in the box."""
        found = []
        for mail in mailbox.Maildir(self._folder, create=False):
            text = mail.get_payload(decode=True)
            assert isinstance(text, bytes)
            found.append((str(mail["To"]), str(mail["Subject"]), text.decode().strip()))
        return found


@dataclass(slots=True)
class Received:
    """What came in: events with a right signature, how many were wrong, and how many were turned away at first."""

    events: list[dict[str, Any]] = field(default_factory=list)
    wrong_signatures: int = 0
    turned_away: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class WebhookReceiver:
    """An HTTP server that checks signatures, and answers 503 to every fifth event that it sees for the first time."""

    def __init__(self, secret: bytes) -> None:
        self.received = Received()
        handler = type("Handler", (_Handler,), {"secret": secret, "received": self.received})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "WebhookReceiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    secret = b""
    received = Received()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self._judge(body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _judge(self, body: bytes) -> int:
        expected = "sha256=" + hmac.new(self.secret, body, hashlib.sha256).hexdigest()
        event = json.loads(body)
        with self.received.lock:
            if not hmac.compare_digest(expected, self.headers.get("X-Signature", "")):
                self.received.wrong_signatures += 1
                return 401
            number = event["number"]
            is_first_try = number not in self.received.seen
            self.received.seen.add(number)
            if is_first_try and number % FAIL_EVERY == 0:
                self.received.turned_away.add(number)
                return 503
            self.received.events.append(event)
        return 200

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the demo shows its own progress."""
