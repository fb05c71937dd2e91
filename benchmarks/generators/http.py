"""A small HTTP client: a full one would take more of the machine than the server that it measures."""

import asyncio
from typing import Any, cast
from urllib.parse import urlsplit

HEAD_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str) -> "Connection":
        """Connect to a server."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, str(parts.hostname), int(parts.port or 80))
        return connection

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request and return the status and the body of the answer.

        Raises:
            ConnectionError: The server closed the connection.
        """
        assert self._transport is not None
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer the request once its whole reply is here."""
        self._received += data
        head, found, body = self._received.partition(HEAD_END)
        if not found or self._reply is None:
            return
        if len(body) >= content_length(head):
            self._received.clear()
            if not self._reply.done():  # else the load has ended, and nobody waits any more
                self._reply.set_result((int(head[9:12]), bytes(body)))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits."""
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error or ConnectionResetError("the server closed the connection"))


def content_length(head: bytes | bytearray) -> int:
    """Return how long the body behind a head is."""
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


def post(url: str, api_key: str, path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return the bytes of a POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nX-API-Key: {api_key}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(url: str, api_key: str, path: str) -> bytes:
    """Return the bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nX-API-Key: {api_key}\r\n\r\n".encode()


def created(reply: tuple[int, bytes]) -> Any:
    """Check that a submission was taken and return its body."""
    status, body = reply
    if status != 201:
        raise RuntimeError(f"the server answered {status}: {body[:500]!r}")
    return body
