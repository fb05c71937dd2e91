"""The lane of the busiest request: a plain `POST /v1/jobs`, from the bytes of its head to the bytes of its answer.

What Sanic makes of a request - an object, headers, a route, a stream, a response - takes four times as long as
submitting the job does. So a connection looks here first. Only what is ordinary in every way goes on the lane; anything
else is left to Sanic with all of its bytes, and is answered by the same functions in the same words.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from sanic.headers import format_http1_response
from sanic.response import HTTPResponse

from quorra_server.domain.errors import Overloaded
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.jobs import accept_job
from quorra_server.transports.rest.problems import decode_json, problem_response
from quorra_server.transports.rest.routes import Memory, Server, check_json_type, key_of, reply

BEGINNING = b"POST /v1/jobs HTTP/1.1\r\n"
HEAD_BYTES_MAX = 4 * 1024
# Past this size reading and checking the body is what takes the time. It is half of what a connection buffers.
BODY_BYTES_MAX = 32 * 1024

# RFC 9112: no space before the colon, no folded lines, no control characters. A proxy in front that reads a head in
# another way than this server could be made to smuggle a second request past its rules.
HEAD = re.compile(rb"[!-~]+ [^\x00- \x7f]+ HTTP/1\.[01](?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)*")
# Headers that ask for something of the connection or the transfer; only Sanic knows how.
_DEMANDS = frozenset({"transfer-encoding", "expect", "upgrade", "trailer", "te"})

_decode_job = msgspec.json.Decoder(shapes.JobBody).decode


@dataclass(slots=True)
class PlainHead:
    """The head of a request for the lane.

    Attributes:
        raw: All of its bytes, with the empty line.
        principal: Whose API key it has; None until it was checked.
    """

    raw: bytes
    headers: dict[str, str]
    body_bytes: int
    principal: str | None = None


def plain_head(buffer: bytearray) -> PlainHead | None:
    """Return the head that a buffer begins with, if it is one for the lane."""
    end = buffer.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
    if end < 0 or not buffer.startswith(BEGINNING):
        return None
    raw = bytes(buffer[:end])
    if not HEAD.fullmatch(raw):
        return None
    lines = raw.decode(errors="surrogateescape").split("\r\n")[1:]
    headers = {name.lower(): value.lstrip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    is_plain = (
        len(headers) == len(lines)
        and not _DEMANDS & headers.keys()
        and headers.get("connection", "keep-alive").lower() == "keep-alive"
        and length.isascii()
        and length.isdigit()
        and int(length) <= BODY_BYTES_MAX
    )
    return PlainHead(raw + b"\r\n\r\n", headers, int(length)) if is_plain else None


class Lane:
    """Answers the requests of the lane."""

    def __init__(self, server: Server, authenticate: Callable[[str | None], str], memory: Memory) -> None:
        """Take what handlers need, what knows the keys, and what bounds the bodies of all requests."""
        self._memory = memory
        self._server = server
        self._authenticate = authenticate

    async def answer(self, head: PlainHead, body: bytes) -> bytes:
        """Submit the job of a request and return the whole answer."""
        try:
            self._memory.take(len(body))
        except Overloaded as error:
            return _encoded(problem_response(error))
        try:
            return await self._answer(head, body)
        finally:
            self._memory.give_back(len(body))

    async def _answer(self, head: PlainHead, body: bytes) -> bytes:
        try:
            principal = head.principal or self._admit(head)
            job = decode_json(_decode_job, body or b"{}")
            submitted = await accept_job(self._server, job, principal, head.headers.get("idempotency-key"))
        except Exception as error:
            # Every error leaves as problem details; what is not part of the contract is an incident.
            return _encoded(problem_response(error))
        answer = msgspec.json.encode(shapes.Submitted.of(submitted))
        if submitted.existing:
            return _encoded(reply(shapes.Submitted.of(submitted)))
        return _CREATED % (len(answer), answer)

    def _admit(self, head: PlainHead) -> str:
        """Return the principal of a head that may pass, and note it: the next request mostly has the same head."""
        principal = self._authenticate(key_of(head.headers))
        check_json_type(head.headers)
        head.principal = principal
        return principal


# As Sanic writes it.
_CREATED = (
    b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\nconnection: keep-alive\r\ncontent-type: application/json\r\n\r\n%b"
)


def refusal(error: Exception) -> bytes:
    """Return the whole answer of a request that was ended by an error, and its connection with it."""
    return _encoded(problem_response(error), connection="close")


def _encoded(response: HTTPResponse, *, connection: str = "keep-alive") -> bytes:
    body: bytes = response.body or b""
    response.headers["content-length"] = len(body)
    response.headers["connection"] = connection
    return bytes(format_http1_response(response.status, response.processed_headers)) + body
