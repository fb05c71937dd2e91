"""Problem details (RFC 9457): what a client is told when something is wrong."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog
from sanic.exceptions import MethodNotAllowed as SanicMethodNotAllowed
from sanic.exceptions import NotFound, SanicException, ServiceUnavailable
from sanic.response import HTTPResponse

from quorra_server.domain.errors import (
    FieldProblem,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    OutcomeUnknown,
    QuorraError,
    RouteNotFound,
)
from quorra_server.domain.json_text import unusable_character
from quorra_server.observability.logging import log_incident
from quorra_server.transports.status import status_of

log = structlog.get_logger(__name__)

Decoded = TypeVar("Decoded")

CONTENT_TYPE = "application/problem+json"
PROBLEMS_MAX = 20
RETRY_AFTER_SECONDS = 1.0


def problem_of(error: Exception) -> dict[str, Any]:
    """Return the problem details of an error; one that is not part of the contract is logged as an incident."""
    known = known_error(error)
    if known is None:
        incident = log_incident(log, "incident", error)
        known = QuorraError(f"A bug of the server's; report incident {incident}.")
    problem: dict[str, Any] = {
        "type": f"urn:quorra:problem:{known.code}",
        "title": known.title,
        "status": status_of(known).http,
        "code": known.code,
        "detail": _sendable(known.message),
    }
    if known.field:
        problem["field"] = known.field
    if isinstance(known, InvalidRequest) and known.problems:
        problem["errors"] = [
            {"field": found.field, "message": _sendable(found.message)} for found in known.problems[:PROBLEMS_MAX]
        ]
    return problem


def _sendable(text: str) -> str:
    """Return a text as UTF-8 can carry it: a message may quote a header whose bytes are none."""
    return text.encode(errors="replace").decode()


def problem_response(error: Exception) -> HTTPResponse:
    """Return the reply for an error."""
    problem = problem_of(error)
    headers = {}
    known = known_error(error)
    if known is not None and known.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, round(known.retry_after_seconds)))
    if isinstance(error, SanicMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.headers["Allow"].split(", ")))
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="quorra"'
    return HTTPResponse(
        msgspec.json.encode(problem), status=problem["status"], headers=headers, content_type=CONTENT_TYPE
    )


def known_error(error: Exception) -> QuorraError | None:
    """Return the contract's error for any other one, or None for a bug."""
    if isinstance(error, QuorraError):
        return error
    if isinstance(error, NotFound):
        return RouteNotFound("There is no such path; /docs lists all of them.")
    if isinstance(error, SanicMethodNotAllowed):
        return MethodNotAllowed("This path does not take that method; /docs lists what each path takes.")
    if isinstance(error, ServiceUnavailable):
        # Sanic ends what nothing came of within the server's time for a response.
        return OutcomeUnknown(
            "The request took too long and was ended; part of it may be done. Repeat it: a verb for many jobs goes on "
            "with the rest, and a submission with the same id or Idempotency-Key is always safe.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if isinstance(error, SanicException) and error.status_code < 500:
        return MalformedRequest(f"The HTTP request is not well formed: {error}.")
    return None


def decode_json(decode: Callable[[bytes], Decoded], raw: bytes) -> Decoded:
    """Return a body as its type.

    Raises:
        MalformedRequest: It is not JSON that can be used.
        InvalidRequest: It does not fit its type; names the field.
    """
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise from_decoding(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = unusable_character(raw) or (
            "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        )
        message = f"The body is not valid JSON: {reason}. Send UTF-8 text as RFC 8259 has it, without NaN or Infinity."
        raise MalformedRequest(message, problems=[FieldProblem("body", message)]) from error


def from_decoding(error: msgspec.ValidationError) -> InvalidRequest:
    """Return the contract's error for a body or query that does not fit its type; names the field."""
    text = str(error)
    message, _, place = text.partition(" - at `$")
    field = place.rstrip("`").lstrip(".") if place else ""
    for marker in ("unknown field `", "missing required field `"):
        if marker in message:
            name = message.partition(marker)[2].rstrip("`")
            field = f"{field}.{name}" if field else name
    field = field or "body"
    sentence = f"{field}: {message}."
    if "unknown field `" in message:
        sentence = f"{field} is not a field that is taken here; remove it, or correct its name (/docs lists all)."
    return InvalidRequest(sentence, problems=[FieldProblem(field, sentence)])
