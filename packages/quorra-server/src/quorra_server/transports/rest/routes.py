"""The registry: what each route takes and gives, as types. Decoding, errors and OpenAPI all follow from it."""

import asyncio
import difflib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs

import msgspec
from sanic.request import Request
from sanic.response import HTTPResponse

from quorra_server.domain.errors import FieldProblem, InvalidRequest, Overloaded, PayloadTooLarge
from quorra_server.domain.limits import Limits
from quorra_server.observability.metrics import Metrics
from quorra_server.services import Services
from quorra_server.storage.database import Database
from quorra_server.transports.rest.problems import from_decoding

BODY_SECONDS_MAX = 30.0
# A purge of millions takes longer than clients wait, quorractl 30 s: it says what it did, and is repeated.
PURGE_SECONDS_MAX = 20.0
UNBOUNDED = 2**62
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
Body = TypeVar("Body")
Query = TypeVar("Query")


@dataclass(frozen=True, slots=True)
class Server:
    """What handlers need."""

    services: Services
    database: Database
    metrics: Metrics
    limits: Limits
    version: str


class Memory:
    """Bounds the bytes of all request bodies that are in memory at a time."""

    def __init__(self, bytes_max: int) -> None:
        """Start empty."""
        self._bytes_max = self._left = bytes_max

    def has_room(self, size: int) -> bool:
        """Say whether so many bytes could be taken now."""
        return size <= self._left

    def take(self, size: int) -> None:
        """Reserve room for more bytes.

        Raises:
            Overloaded: There is none; the client should come back.
        """
        if size > self._left:
            raise Overloaded(
                f"The request bodies that the server holds would have more than {self._bytes_max:,} bytes "
                "(QUORRA_BODIES_BYTES_MAX); try again shortly.",
                retry_after_seconds=1,
            )
        self._left -= size

    def give_back(self, size: int) -> None:
        """Return room."""
        self._left += size


class Share:
    """What one request holds of the memory; a context manager that gives all of it back."""

    def __init__(self, memory: Memory) -> None:
        """Hold nothing yet."""
        self._memory = memory
        self._held = 0

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._held)

    def has_room(self, size: int) -> bool:
        """Say whether so many bytes could be taken now."""
        return self._memory.has_room(size)

    def take(self, size: int) -> None:
        """Reserve room for more bytes.

        Raises:
            Overloaded: There is none.
        """
        self._memory.take(size)
        self._held += size

    def give_back(self, size: int) -> None:
        """Return room before the end."""
        self._memory.give_back(size)
        self._held -= size


@dataclass(slots=True)
class Call(Generic[Body, Query]):
    """One request: decoded, and with the principal that made it."""

    server: Server
    request: Request
    principal: str
    body: Body
    query: Query
    path: dict[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """A path and a method with what they take and give."""

    method: str
    path: str
    handler: Callable[[Call[Any, Any]], Awaitable[HTTPResponse]]
    summary: str
    body: Any = None
    query: Any = None
    reply: Any = None
    status: int = 200
    is_open: bool = False
    is_stream: bool = False
    body_bytes_max: int | None = None
    headers: tuple[str, ...] = ()
    errors: tuple[int, ...] = (401, 422)
    tag: str = field(default="jobs")


def reply(value: Any, status: int = 200) -> HTTPResponse:
    """Return a JSON reply."""
    return HTTPResponse(msgspec.json.encode(value), status=status, content_type="application/json")


async def read_body(request: Request, bytes_max: int, memory: Memory, limit: str) -> bytes:
    """Read a whole body, within its limit, the server's memory and 30 seconds.

    Args:
        limit: What an error says of the limit: its value and the setting that moves it.

    Raises:
        PayloadTooLarge: More than `bytes_max` bytes.
        Overloaded: No room for it now.
        InvalidRequest: It took too long.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            while chunk := await next_bytes(request):
                memory.take(len(chunk))
                size += len(chunk)
                chunks.append(chunk)
                if size > bytes_max:
                    raise PayloadTooLarge(
                        f"The body has more than {bytes_max:,} bytes, because of the limit of {limit}; send it in "
                        "parts, or with a smaller payload.",
                        field="body",
                    )
        return b"".join(chunks)
    except TimeoutError as error:
        raise InvalidRequest(
            f"The body did not arrive within {BODY_SECONDS_MAX:g} s; send it faster, or in parts.", field="body"
        ) from error
    finally:
        memory.give_back(size)


async def next_bytes(request: Request) -> bytes:
    """Return what comes next of a body, nothing at its end. Cancelling it loses nothing: what has come stays there."""
    stream: Any = request.stream
    # Each route bounds its own body as it reads it; an import has no bound but its lines.
    stream.request_max_size = UNBOUNDED
    return await stream.read() or b""


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the API key that came with a request."""
    key = headers.get("x-api-key")
    if not key:
        scheme, _, token = (headers.get("authorization") or "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else None
    # What is not UTF-8 arrives as half surrogates, which no key has.
    return key.encode("utf-8", "replace").decode() if key else None


def decode_query(route: Route, request: Request) -> Any:
    """Return the query parameters as the route's type.

    Raises:
        InvalidRequest: One is unknown, given twice, or does not fit.
    """
    given = _parameters(request)
    if route.query is None:
        if given:
            raise _unknown(next(iter(given)), ())
        return None
    kinds = {info.encode_name: info.type for info in msgspec.structs.fields(route.query)}
    values: dict[str, str | int] = {}
    for name, found in given.items():
        if name not in kinds:
            raise _unknown(name, tuple(kinds))
        if len(found) > 1:
            raise _invalid(name, f"{name} is given {len(found)} times; give it once.")
        values[name] = _whole_number(name, found[0]) if kinds[name] is int else found[0]
    try:
        # Without `strict` the text "null" would be no filter at all, and a number a time.
        return msgspec.convert(values, route.query)
    except msgspec.ValidationError as error:
        raise from_decoding(error) from error


def _parameters(request: Request) -> dict[str, list[str]]:
    try:
        return parse_qs(request.query_string, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise _invalid("query", "The query is not percent-encoded UTF-8; encode it as UTF-8.") from error


def _whole_number(name: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise _invalid(name, f"{name} is no whole number of at most 18 digits; use one such as 50.")
    return int(text)


def _unknown(name: str, known: tuple[str, ...]) -> InvalidRequest:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return _invalid(name, f"{name} is not a parameter of this path{hint}.")


def _invalid(field_name: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, problems=[FieldProblem(field_name, message)])


def check_json_type(headers: Mapping[str, str]) -> None:
    """Refuse bodies that say they are something else than JSON.

    Raises:
        InvalidRequest: The Content-Type is another one.
    """
    kind = (headers.get("content-type") or "application/json").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/x-www-form-urlencoded"):
        # curl -d says it is a form unless told otherwise; what counts is that it parses as JSON.
        raise _invalid("Content-Type", f"Content-Type is {kind}; send application/json.")
    check_encoding(headers)


def check_encoding(headers: Mapping[str, str]) -> None:
    """Refuse bodies that say they are compressed, or not UTF-8.

    Raises:
        InvalidRequest: The Content-Encoding or the charset is another one.
    """
    compression = (headers.get("content-encoding") or "identity").strip().lower()
    if compression != "identity":
        raise _invalid("Content-Encoding", f"Content-Encoding is {compression}; send the body uncompressed.")
    charset = _CHARSET.search(headers.get("content-type") or "")
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        raise _invalid("Content-Type", f"The charset is {charset[1]}; JSON is sent as UTF-8.")
