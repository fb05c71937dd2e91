"""Routes of health and metrics; open by default."""

import math

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sanic.response import HTTPResponse

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.states import JobStatus
from quorra_server.storage import queues
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.routes import Call, Route, Server, reply


async def live(_: Call[None, None]) -> HTTPResponse:
    """Say that the process answers; nothing else is asked."""
    return reply(shapes.Health("ok"))


async def ready(call: Call[None, None]) -> HTTPResponse:
    """Say whether the server can do its work now."""
    readiness = await call.server.services.health.check()
    if readiness.ready:
        return reply(shapes.Health("ok"))
    return reply(shapes.Health("unavailable", readiness.problems), 503)


async def metrics(call: Call[None, None]) -> HTTPResponse:
    """Give all metrics to Prometheus; while the database is away nobody knows the gauges that come from it."""
    await _refresh(call.server)
    return HTTPResponse(call.server.metrics.text(), content_type=CONTENT_TYPE_LATEST)


async def _refresh(server: Server) -> None:
    try:
        counts = await queues.count_queues(server.database.main)
        waiting = [name for name, by_status in counts.items() if by_status[JobStatus.PENDING]]
        oldest = await queues.oldest_waiting(server.database.main, waiting)
    except QuorraError:
        server.metrics.queue_length.clear()
        server.metrics.oldest_waiting.set(math.nan)
        return
    server.metrics.set_queue_lengths(counts)
    server.metrics.oldest_waiting.set(oldest or 0)


ROUTES = (
    Route(
        "GET", "/livez", live, "Whether the process answers", reply=shapes.Health, is_open=True, tag="health", errors=()
    ),
    Route(
        "GET",
        "/readyz",
        ready,
        "Whether it can do its work",
        reply=shapes.Health,
        is_open=True,
        tag="health",
        errors=(503,),
    ),
    Route(
        "GET", "/healthz", ready, "The same as /readyz", reply=shapes.Health, is_open=True, tag="health", errors=(503,)
    ),
    Route("GET", "/metrics", metrics, "Metrics for Prometheus", is_open=True, tag="health", errors=()),
)
