"""The lines of an import as they arrive: numbered, and gathered into chunks that are recorded and answered together."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from sanic.request import Request

from quorra_server.transports.rest.routes import Share, next_bytes

CHUNK_LINES = 500
CHUNK_BYTES = 4 * 1024 * 1024
# A client that sends line by line, as `tail -f` does, has its answers this much later at most.
WAIT_SECONDS_MAX = 1.0
# How often is looked whether others gave room back. To be told would be a step on the way of every request.
ROOM_LOOK_SECONDS = 0.05

Line = tuple[int, bytes]


class Chunk(NamedTuple):
    """Lines with their numbers, and how many bytes of the server's memory are taken for them."""

    lines: list[Line]
    size: int


class Lines:
    """The lines of one body. What is read is taken out of `share`; whoever gets a chunk gives its size back.

    The first line is 1. Blank lines count, and are left out. A line that is over its limit comes cut: one byte longer
    than the limit at least.
    """

    def __init__(self, request: Request, share: Share, line_bytes_max: int) -> None:
        """Take the body, the room for it, and how long a line may be."""
        self._request = request
        self._share = share
        self._line_bytes_max = line_bytes_max
        self._lines: list[Line] = []
        # What came behind the last line end.
        self._rest = b""
        self._lines_seen = 0
        self._size = 0
        self._due_at: float | None = None
        self._has_begun = False

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield chunks: full ones, and smaller ones when a line has waited a second for the next one.

        Raises:
            Overloaded: The server has no room, and no chunk was yielded yet. From the first one on room is waited for.
        """
        while (data := await self._received()) != b"":
            if self._lines and (data is None or self._is_short_of_room(len(data))):
                yield self._cut()
            if data:
                await self._take_room(len(data))
                self._add(data)
            while len(self._lines) >= CHUNK_LINES or self._size >= CHUNK_BYTES:
                yield self._cut()
        self._add_last()
        if self._lines:
            yield self._cut()

    async def _received(self) -> bytes | None:
        """Return what comes next of the body, nothing at its end; None if the lines here have waited long enough."""
        try:
            async with asyncio.timeout_at(self._due_at):
                return await next_bytes(self._request)
        except TimeoutError:
            return None

    def _is_short_of_room(self, size: int) -> bool:
        return self._has_begun and not self._share.has_room(size)

    async def _take_room(self, size: int) -> None:
        # Others give room back, and so does the chunk of this import that is being recorded. If that takes too long the
        # connection ends as any other on which nothing moves.
        while self._is_short_of_room(size):
            await asyncio.sleep(ROOM_LOOK_SECONDS)
        self._share.take(size)

    def _add(self, data: bytes) -> None:
        taken = self._size + len(self._rest) + len(data)
        *ended, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._line_bytes_max:
            self._rest = self._rest[: self._line_bytes_max + 1]
        lines = [(number, line) for number, line in enumerate(ended, self._lines_seen + 1) if line.strip()]
        self._lines_seen += len(ended)
        self._lines += lines
        self._size += sum(len(line) for _, line in lines)
        self._share.give_back(taken - self._size - len(self._rest))
        if self._due_at is None:
            self._due_at = self._due()

    def _add_last(self) -> None:
        """Add what came behind the last line end: the last line may have none."""
        if self._rest.strip():
            self._lines.append((self._lines_seen + 1, self._rest))
            self._size += len(self._rest)

    def _cut(self) -> Chunk:
        lines, self._lines = self._lines[:CHUNK_LINES], self._lines[CHUNK_LINES:]
        size = sum(len(line) for _, line in lines)
        self._size -= size
        self._due_at = self._due()
        self._has_begun = True
        return Chunk(lines, size)

    def _due(self) -> float | None:
        return asyncio.get_running_loop().time() + WAIT_SECONDS_MAX if self._lines else None
