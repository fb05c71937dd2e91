"""Routes of queues: counts, figures, settings, purge."""

from typing import Any
from urllib.parse import unquote

import msgspec
from sanic.response import HTTPResponse

from quorra_server.domain.errors import FieldProblem, InvalidRequest, QueueNotFound
from quorra_server.domain.validation import validate_backoff, validate_name
from quorra_server.storage import queues
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.routes import PURGE_SECONDS_MAX, Call, Route, reply


async def list_queues(call: Call[None, None]) -> HTTPResponse:
    """Count jobs by queue and status."""
    counts = await queues.count_queues(call.server.database.main)
    return reply(
        shapes.QueueList(
            [
                shapes.QueueCount(queue, status, count)
                for queue, by_status in counts.items()
                for status, count in by_status.items()
                if count
            ]
        )
    )


async def read_queue(call: Call[None, None]) -> HTTPResponse:
    """Read the figures of one queue."""
    name = _name(call)
    return reply(await _details(call, name))


async def set_queue(call: Call[shapes.QueueBody, None]) -> HTTPResponse:
    """Set the back-off for jobs that bring none of their own."""
    name = _name(call)
    given = call.body.backoff
    backoff = None if given is None else validate_backoff(msgspec.structs.asdict(given), call.server.limits)
    await queues.set_queue(call.server.database.main, name, backoff)
    return reply(await _details(call, name, must_exist=False))


async def purge_queue(call: Call[None, None]) -> HTTPResponse:
    """Remove the waiting jobs of a queue; `more` if the time was over before all were gone: repeat the request."""
    purge = await call.server.services.purge.purge_queue(_name(call), seconds_max=PURGE_SECONDS_MAX)
    return reply(shapes.Purged.of(purge))


async def _details(call: Call[Any, None], name: str, *, must_exist: bool = True) -> shapes.QueueDetails:
    counts = (await queues.count_queues(call.server.database.main)).get(name)
    if counts is None and must_exist:
        raise QueueNotFound(f"No job was ever submitted to a queue {name!r}; GET /v1/queues lists all queues.")
    figures = await queues.describe_queue(call.server.database.main, name)
    return shapes.QueueDetails(
        queue=name,
        counts={status.value: count for status, count in (counts or {}).items()},
        oldest_waiting_seconds=figures.oldest_waiting_seconds,
        backoff=figures.backoff,
    )


def _name(call: Call[Any, None]) -> str:
    try:
        name = unquote(call.path["queue"], errors="strict")
    except UnicodeDecodeError as error:
        message = "queue is not percent-encoded UTF-8; encode it as UTF-8."
        raise InvalidRequest(message, problems=[FieldProblem("queue", message)]) from error
    return validate_name(name, "queue", call.server.limits)


ROUTES = (
    Route("GET", "/v1/queues", list_queues, "Count jobs by queue and status", reply=shapes.QueueList, tag="queues"),
    Route(
        "GET",
        "/v1/queues/<queue:str>",
        read_queue,
        "Read a queue's figures",
        reply=shapes.QueueDetails,
        tag="queues",
        errors=(401, 404, 422),
    ),
    Route(
        "PUT",
        "/v1/queues/<queue:str>",
        set_queue,
        "Set a queue's back-off",
        body=shapes.QueueBody,
        reply=shapes.QueueDetails,
        tag="queues",
    ),
    Route(
        "DELETE", "/v1/queues/<queue:str>/jobs", purge_queue, "Remove waiting jobs", reply=shapes.Purged, tag="queues"
    ),
)
