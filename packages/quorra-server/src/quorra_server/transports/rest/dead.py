"""Routes of the dead-letter queue: list, replay, purge."""

from msgspec import UNSET
from sanic.response import HTTPResponse

from quorra_server.domain.errors import FieldProblem, InvalidRequest
from quorra_server.domain.json_text import checked_json
from quorra_server.domain.states import JobStatus
from quorra_server.domain.validation import validate_ids, validate_moment, validate_name
from quorra_server.storage.jobs import JobFilter
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.jobs import page_of
from quorra_server.transports.rest.routes import PURGE_SECONDS_MAX, Call, Route, reply


async def list_dead(call: Call[None, shapes.DeadQuery]) -> HTTPResponse:
    """List dead jobs, last died first."""
    query = call.query
    for name, value in (("queue", query.queue), ("type", query.type)):
        if value is not None:
            validate_name(value, name, call.server.limits)
    wanted = JobFilter(status=JobStatus.DEAD, queue=query.queue, type=query.type)
    return reply(await page_of(call.server, wanted, query.limit, query.cursor))


async def replay_dead(call: Call[shapes.ReplayBody, None]) -> HTTPResponse:
    """Give dead jobs a new life, perhaps with another payload."""
    limits = call.server.limits
    payload = None
    if call.body.payload is not UNSET:
        payload = checked_json(bytes(call.body.payload), "payload", limits, object_only=True)
    jobs = await call.server.services.replay.replay_jobs(validate_ids(call.body.ids), payload)
    return reply(shapes.Replayed(len(jobs), [shapes.Job.of(job) for job in jobs]))


async def purge_dead(call: Call[shapes.PurgeDeadBody, None]) -> HTTPResponse:
    """Remove dead jobs for good; `more` if the time was over before all that match were gone: repeat the request."""
    body = call.body
    if (body.ids is None) == (body.before is None):
        message = "Give ids, or before, and not both."
        raise InvalidRequest(message, problems=[FieldProblem("ids", message)])
    purge = call.server.services.purge
    if body.ids is not None:
        return reply(shapes.Purged.of(await purge.purge_dead(validate_ids(body.ids))))
    before = validate_moment(body.before, "before")
    assert before is not None
    return reply(shapes.Purged.of(await purge.purge_dead_before(before, seconds_max=PURGE_SECONDS_MAX)))


ROUTES = (
    Route("GET", "/v1/dead", list_dead, "List dead jobs", query=shapes.DeadQuery, reply=shapes.JobPage, tag="dead"),
    Route(
        "POST",
        "/v1/dead/replay",
        replay_dead,
        "Replay dead jobs",
        body=shapes.ReplayBody,
        reply=shapes.Replayed,
        tag="dead",
    ),
    Route(
        "DELETE", "/v1/dead", purge_dead, "Remove dead jobs", body=shapes.PurgeDeadBody, reply=shapes.Purged, tag="dead"
    ),
)
