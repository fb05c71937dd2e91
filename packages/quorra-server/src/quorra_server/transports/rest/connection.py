"""One HTTP connection: what Sanic leaves open is closed here, before a request reaches its route.

A head must be well formed and arrive within its deadline however slowly it drips, and a body that no route wanted is
read only so far.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from sanic.exceptions import BadRequest, RequestTimeout
from sanic.http import Http
from sanic.server.protocols.http_protocol import HttpProtocol

HEAD_SECONDS_MAX = 5.0
# A client that is answered before it has sent all of its body gets this long to notice.
UNWANTED_BODY_SECONDS_MAX = 5.0

# RFC 9112: no space before the colon, no folded lines, no control characters. A proxy in front that reads a head in
# another way than this server could be made to smuggle a second request past its rules.
_HEAD = re.compile(rb"[!-~]+ [^\x00- \x7f]+ HTTP/1\.[01](?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)*")
_BAD_LENGTH = re.compile(rb"\r\ncontent-length:(?![ \t]*[0-9]{1,18}[ \t]*(?:\r\n|\Z))", re.IGNORECASE)


class StrictHttp(Http):
    """Sanic's reading of HTTP/1.1, with absolute deadlines and a strict head."""

    __slots__ = ()

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
        if not _HEAD.fullmatch(head):
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
    """Connections that read HTTP strictly."""

    HTTP_CLASS: Any = StrictHttp
