"""One HTTP connection: what Sanic leaves open is closed here, before a request reaches its route.

A head must be well formed and arrive within its deadline however slowly it drips, and a body that no route wanted is
read only so far.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sanic.exceptions import BadRequest, RequestTimeout, ServiceUnavailable
from sanic.http import Http, Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from quorra_server.domain.errors import Overloaded
from quorra_server.transports.rest.lane import HEAD, Lane, PlainHead, plain_head, refusal
from quorra_server.transports.rest.problems import problem_response

HEAD_SECONDS_MAX = 5.0
# A client that is answered before it has sent all of its body gets this long to notice.
UNWANTED_BODY_SECONDS_MAX = 5.0
# Many clients send a body right after its head, in a packet of its own.
LANE_BODY_SECONDS_MAX = 0.5
# A connection too many gets this long to read why it is closed.
TURNED_AWAY_SECONDS_MAX = 1.0

_BAD_LENGTH = re.compile(rb"\r\ncontent-length:(?![ \t]*[0-9]{1,18}[ \t]*(?:\r\n|\Z))", re.IGNORECASE)


class StrictHttp(Http):
    """Sanic's reading of HTTP/1.1, with absolute deadlines, a strict head, and a lane for the busiest request."""

    __slots__ = ("_lane", "_last_head", "_more_bytes")

    def __init__(self, protocol: Any) -> None:
        """Take the protocol whose bytes are read, and the lane of its application."""
        super().__init__(protocol)  # type: ignore[no-untyped-call]
        self._lane: Lane = protocol.app.ctx.lane
        self._last_head: PlainHead | None = None
        self._more_bytes: Callable[[], Awaitable[None]] = protocol.receive_more
        # Sanic waits here for a request to begin; those of the lane begin and end here.
        self._receive_more = self._receive_next

    async def http1(self) -> None:
        """Serve the connection until it ends."""
        self.init_for_request()  # type: ignore[no-untyped-call]
        # Its first bytes may have come before this began.
        await self._run_lane()
        await super().http1()  # type: ignore[no-untyped-call]

    async def _receive_next(self) -> None:
        await self._more_bytes()
        await self._run_lane()

    async def _run_lane(self) -> None:
        # Not idle, or with a request: the rest of that request is what was waited for.
        while self.stage is Stage.IDLE and self.request is None and (body := await self._plain_body()) is not None:
            # While the stage says so, neither a stop nor the keep-alive timeout closes the connection.
            self.stage = Stage.HANDLER
            try:
                assert self._last_head is not None
                await self.protocol.send(await self._lane.answer(self._last_head, body))
            except asyncio.CancelledError:
                # Sanic answers what took too long, but for a request that it knows nothing of.
                if isinstance(self.exception, ServiceUnavailable):
                    await self.protocol.send(refusal(self.exception))
                raise
            finally:
                self.stage = Stage.IDLE
            if not self.recv_buffer:
                await self._more_bytes()

    async def _plain_body(self) -> bytes | None:
        """Take the request that waits, if it is one for the lane, and return its body; leave any other as it is."""
        buffer: bytearray = self.recv_buffer
        head = self._plain_head(buffer)
        if head is None:
            return None
        size = len(head.raw) + head.body_bytes
        if len(buffer) < size and not await self._received(size):
            return None
        body = bytes(buffer[len(head.raw) : size])
        del buffer[:size]
        return body

    def _plain_head(self, buffer: bytearray) -> PlainHead | None:
        head = self._last_head
        # The requests of one connection mostly have the same head, byte for byte: it is checked once.
        if head is None or not buffer.startswith(head.raw):
            head = self._last_head = plain_head(buffer)
        return head

    async def _received(self, size: int) -> bool:
        """Wait a little for the rest of a request. Sanic's own deadlines begin afterwards."""
        self.stage = Stage.REQUEST
        try:
            async with asyncio.timeout(LANE_BODY_SECONDS_MAX):
                while len(self.recv_buffer) < size:
                    await self._more_bytes()
        except TimeoutError:
            return False
        finally:
            self.stage = Stage.IDLE
        return True

    async def http1_request_header(self) -> None:
        """Receive and check a head, and let Sanic parse it."""
        try:
            async with asyncio.timeout(HEAD_SECONDS_MAX):
                await self._check_head()
                await super().http1_request_header()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            raise RequestTimeout(f"its head did not arrive within {HEAD_SECONDS_MAX:g} s") from error

    async def _check_head(self) -> None:
        buffer: bytearray = self.recv_buffer
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > self.HEADER_MAX_SIZE:
                return
            await self._receive_more()
        head = bytes(buffer[:end])
        if not HEAD.fullmatch(head):
            raise BadRequest("its head breaks RFC 9112")
        if _BAD_LENGTH.search(head):
            raise BadRequest("its Content-Length is not a number")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Read the rest of a body that no route wanted."""
        try:
            async with asyncio.timeout(UNWANTED_BODY_SECONDS_MAX):
                async for data in super().__aiter__():  # type: ignore[no-untyped-call]
                    yield data
        except TimeoutError as error:
            raise BadRequest("its body did not arrive in time") from error


class StrictProtocol(HttpProtocol):
    """Connections that read HTTP strictly, as many as the server's `Admission` lets in."""

    HTTP_CLASS: Any = StrictHttp
    __slots__ = ("address",)

    def connection_made(self, transport: Any) -> None:
        """Let the connection in, or answer at once that there are too many."""
        # None for one that was not let in.
        self.address: str | None = None
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        try:
            self.app.ctx.admission.enter(address)
        except Overloaded as error:
            self._turn_away(transport, error)
            return
        self.address = address
        super().connection_made(transport)  # type: ignore[no-untyped-call]

    def _turn_away(self, transport: Any, error: Overloaded) -> None:
        answer = problem_response(error)
        body = answer.body or b""
        headers = {**answer.headers, "Content-Type": answer.content_type, "Content-Length": len(body)}
        lines = [f"HTTP/1.1 {answer.status} Too Many Requests", "Connection: close"]
        lines.extend(f"{name}: {value}" for name, value in headers.items())
        transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        # Closing at once, with its request unread, would reset the connection before the answer is seen.
        transport.write_eof()
        self.loop.call_later(TURNED_AWAY_SECONDS_MAX, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take what arrives; what one says that was turned away is not heard."""
        if self.address is not None:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for the next connection."""
        if self.address is not None:
            self.app.ctx.admission.leave(self.address)
            super().connection_lost(exc)  # type: ignore[no-untyped-call]
