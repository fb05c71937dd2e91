"""Routes of jobs: submit, read, list, cancel, retry, change."""

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import msgspec
from sanic.response import HTTPResponse

from quorra_server.domain.errors import FieldProblem, InvalidRequest, PayloadTooLarge, QuorraError, StorageUnavailable
from quorra_server.domain.job import NewJob, SubmittedJob
from quorra_server.domain.json_text import searchable_json
from quorra_server.domain.validation import (
    JobDraft,
    parse_id,
    validate_change,
    validate_job,
    validate_moment,
    validate_name,
    validate_reason,
)
from quorra_server.services.cancel import get_job
from quorra_server.storage import history
from quorra_server.storage import jobs as store
from quorra_server.storage.jobs import JobFilter, Position
from quorra_server.transports.pages import decode_cursor, encode_cursor
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.lines import Chunk, Line, Lines
from quorra_server.transports.rest.problems import decode_json, problem_of
from quorra_server.transports.rest.routes import (
    Call,
    Memory,
    Route,
    Server,
    Share,
    check_encoding,
    check_json_type,
    read_body,
    reply,
)

WAIT_SECONDS_MAX = 60.0
HISTORY_ENTRIES_MAX = 500
# The fields around a payload of full size.
LINE_AIR_BYTES = 64 * 1024
NDJSON = "application/x-ndjson"

Answers = dict[int, Any]

_decode_job = msgspec.json.Decoder(shapes.JobBody).decode
_decode_batch = msgspec.json.Decoder(shapes.BatchBody).decode
_encode_lines = msgspec.json.Encoder().encode_lines


async def submit_job(call: Call[shapes.JobBody, None]) -> HTTPResponse:
    """Submit one job; 200 with `"existing": true` if it was submitted before."""
    request_key = call.request.headers.get("idempotency-key")
    submitted = await accept_job(call.server, call.body, call.principal, request_key)
    return reply(shapes.Submitted.of(submitted), 200 if submitted.existing else 201)


async def accept_job(server: Server, body: shapes.JobBody, principal: str, request_key: str | None) -> SubmittedJob:
    """Submit the job of a body, whichever way its request came."""
    return await server.services.submit.submit_job(_job_of(server, body, request_key=request_key), principal)


async def submit_batch(call: Call[Memory, None]) -> HTTPResponse:
    """Submit up to 10,000 jobs, all or nothing; or import any number as NDJSON, answered line by line."""
    if call.request.headers.get("idempotency-key"):
        message = "A batch takes no Idempotency-Key; give each job an id or a unique_key of its own."
        raise InvalidRequest(message, problems=[FieldProblem("Idempotency-Key", message)])
    kind = (call.request.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if kind == NDJSON:
        check_encoding(call.request.headers)
        return await _import(call)
    check_json_type(call.request.headers)
    server = call.server
    raw = await read_body(
        call.request, server.limits.batch_bytes_max, call.body, server.limits.named("batch_bytes_max")
    )
    batch = decode_json(_decode_batch, raw)
    if len(batch.jobs) > server.limits.batch_jobs_max:
        message = f"There are {len(batch.jobs):,} jobs; a batch takes {server.limits.named('batch_jobs_max')}."
        raise PayloadTooLarge(message, field="jobs")
    submitted = await server.services.submit.submit_jobs(_jobs_of(server, batch.jobs), call.principal)
    return reply(shapes.SubmittedBatch([shapes.Submitted.of(job) for job in submitted]), 201)


async def _import(call: Call[Memory, None]) -> HTTPResponse:
    """Import lines in bounded memory: while one chunk is recorded, at most one more is read and checked."""
    with Share(call.body) as share:
        recorder = _Recorder(call, share)
        try:
            async for chunk in Lines(call.request, share, _line_bytes_max(call.server)).chunks():
                await recorder.record(chunk)
            return await recorder.end()
        finally:
            recorder.stop()


class _Recorder:
    """Records and answers the chunks of one import, one at a time."""

    def __init__(self, call: Call[Memory, None], share: Share) -> None:
        """Take the request, and what it holds of the memory for bodies."""
        self._call = call
        self._share = share
        self._recording: asyncio.Task[None] | None = None
        self._response: Any = None

    async def record(self, chunk: Chunk) -> None:
        """Check a chunk, and begin to record it when the one before is answered."""
        checked = _check_lines(self._call.server, chunk.lines)
        numbers = [number for number, _ in chunk.lines]
        await self._settle()
        await self._begin()
        self._recording = asyncio.create_task(self._record(numbers, chunk.size, *checked))

    async def end(self) -> HTTPResponse:
        """Wait for the last answers, and end the response."""
        await self._settle()
        await self._begin()
        await self._response.eof()
        return cast(HTTPResponse, self._response)

    def stop(self) -> None:
        """End what is under way."""
        if self._recording is not None:
            self._recording.cancel()

    async def _settle(self) -> None:
        if self._recording is not None:
            await self._recording

    async def _begin(self) -> None:
        # Not before the first chunk is there: until then the request can be refused as a whole.
        if self._response is None:
            self._response = await self._call.request.respond(content_type=NDJSON, status=200)

    async def _record(self, numbers: list[int], size: int, jobs: list[tuple[int, NewJob]], refused: Answers) -> None:
        answers = refused | await _submit_lines(self._call, jobs)
        await self._response.send(_encode_lines([answers[number] for number in numbers]))
        self._share.give_back(size)


def _check_lines(server: Server, chunk: list[Line]) -> tuple[list[tuple[int, NewJob]], Answers]:
    """Return the jobs of the lines that are good, and the answers to those that are not."""
    jobs: list[tuple[int, NewJob]] = []
    answers: Answers = {}
    for number, line in chunk:
        try:
            jobs.append((number, _job_of(server, _decoded_line(server, line))))
        except QuorraError as error:
            answers[number] = {"line": number, "error": problem_of(error)}
    return jobs, answers


def _decoded_line(server: Server, line: bytes) -> shapes.JobBody:
    if len(line) > _line_bytes_max(server):
        raise PayloadTooLarge(
            f"The line has more than {_line_bytes_max(server):,} bytes, while a payload may have "
            f"{server.limits.named('payload_bytes_max')}; send a smaller payload.",
            field="payload",
        )
    return decode_json(_decode_job, line)


def _line_bytes_max(server: Server) -> int:
    return server.limits.payload_bytes_max + LINE_AIR_BYTES


async def _submit_lines(call: Call[Memory, None], jobs: list[tuple[int, NewJob]]) -> Answers:
    """Record jobs, all of them in one transaction if none is refused, and return the answer to each line."""
    submit = call.server.services.submit
    try:
        submitted = await submit.submit_jobs([job for _, job in jobs], call.principal)
        return {number: shapes.ImportedLine(number, *job) for (number, _), job in zip(jobs, submitted, strict=True)}
    except StorageUnavailable as error:
        # No line is to blame, and what became of them is not known: whether to send them again is the caller's to say.
        return {number: {"line": number, "error": problem_of(error)} for number, _ in jobs}
    except QuorraError as error:
        if len(jobs) == 1:
            return {jobs[0][0]: {"line": jobs[0][0], "error": problem_of(error)}}
    # One of them was refused, and with it all: one by one, so that only the culprit is.
    answers: Answers = {}
    for entry in jobs:
        answers.update(await _submit_lines(call, [entry]))
    return answers


async def read_job(call: Call[None, shapes.GetQuery]) -> HTTPResponse:
    """Read a job; with `wait` after its life has ended."""
    job_id = parse_id(call.path["job_id"])
    job = await call.server.services.wait.wait_for_end(job_id, _wait_seconds(call.query.wait))
    shown = shapes.Job.of(job)
    if job.last_error is not None:
        shown.errors = shapes.errors_of(await history.list_errors(call.server.database.main, job_id))
    if job.started_at is not None:
        notes = await history.find_notes(call.server.database.main, [job_id])
        if job_id in notes and notes[job_id].progress_done is not None:
            note = notes[job_id]
            shown.progress = shapes.Progress(note.progress_done, note.progress_total, note.progress_note)
    return reply(shown)


def _wait_seconds(text: str | None) -> float:
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d{1,6})(ms|s|m)?", text, re.ASCII)
    seconds = int(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2] or "s"] if match else -1.0
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        message = f"wait is {text!r}; use up to {WAIT_SECONDS_MAX:g}s, such as 30s."
        raise InvalidRequest(message, problems=[FieldProblem("wait", message)])
    return seconds


async def list_jobs(call: Call[None, shapes.ListQuery]) -> HTTPResponse:
    """List jobs, newest first; ended ones by when they ended."""
    query = call.query
    payload = query.payload
    if payload is not None:
        payload = searchable_json(payload, "payload", call.server.limits)
    wanted = JobFilter(
        status=query.status,
        queue=_clean(query.queue, "queue", call),
        type=_clean(query.type, "type", call),
        tag=_clean(query.tag, "tag", call),
        created_from=validate_moment(query.created_after, "created_after"),
        created_before=validate_moment(query.created_before, "created_before"),
        payload=payload,
    )
    return reply(await page_of(call.server, wanted, query.limit, query.cursor))


def _clean(value: str | None, field: str, call: Call[Any, Any]) -> str | None:
    return None if value is None else validate_name(value, field, call.server.limits)


async def page_of(server: Server, wanted: JobFilter, limit: int, cursor: str | None) -> shapes.JobPage:
    """Return one page of the jobs that match.

    Raises:
        InvalidRequest: The limit or the cursor is out of bounds.
    """
    _check_limit(limit, server.limits.page_jobs_max, server.limits.named("page_jobs_max"))
    after = decode_cursor(cursor, "cursor") if cursor is not None else None
    positions = await store.list_jobs(server.database.main, wanted, limit=limit, after=after)
    jobs = await store.get_jobs(server.database.main, [position.job_id for position in positions])
    next_cursor = encode_cursor(positions[-1]) if len(positions) == limit else None
    return shapes.JobPage([shapes.Job.of(job) for job in jobs], next_cursor)


def _check_limit(limit: int, most: int, named: str) -> None:
    if not 1 <= limit <= most:
        message = f"limit is {limit}; use 1 to {named}."
        raise InvalidRequest(message, problems=[FieldProblem("limit", message)])


async def list_history(call: Call[None, shapes.HistoryQuery]) -> HTTPResponse:
    """Read the last leases of a job and how they ended, oldest first; `next_cursor` leads to those before."""
    limit, cursor = call.query.limit, call.query.cursor
    _check_limit(limit, HISTORY_ENTRIES_MAX, str(HISTORY_ENTRIES_MAX))
    before_batch = history.NO_BATCH if cursor is None else _batch_of(cursor, parse_id(call.path["job_id"]))
    job_id = await _known_id(call)
    attempts = await history.list_history(call.server.database.main, job_id, limit=limit, before_batch=before_batch)
    next_cursor = None
    if len(attempts) == limit:
        oldest = min(attempt.batch for attempt in attempts)
        next_cursor = encode_cursor(Position(job_id, oldest, 0))
    return reply(shapes.History([shapes.HistoryEntry.of(attempt) for attempt in attempts], next_cursor))


def _batch_of(cursor: str, job_id: UUID) -> int:
    position = decode_cursor(cursor, "cursor")
    if position.job_id != job_id:
        message = "cursor is of another job's history; start again without it."
        raise InvalidRequest(message, problems=[FieldProblem("cursor", message)])
    return position.batch


async def list_logs(call: Call[None, None]) -> HTTPResponse:
    """Read the last log lines of a job, oldest first: as many as an attempt may have."""
    job_id = await _known_id(call)
    lines = await history.list_logs(call.server.database.main, job_id, limit=call.server.limits.log_lines_max)
    return reply(shapes.Logs([shapes.LogEntry(line.logged_at, line.level, line.message) for line in lines]))


async def _known_id(call: Call[Any, Any]) -> UUID:
    job_id = parse_id(call.path["job_id"])
    return (await get_job(call.server.database.main, job_id)).id


async def cancel_job(call: Call[shapes.CancelBody, None]) -> HTTPResponse:
    """Cancel a job; cancelling twice is fine."""
    reason = validate_reason(call.body.reason)
    job = await call.server.services.cancel.cancel_job(parse_id(call.path["job_id"]), reason)
    return reply(shapes.Job.of(job))


async def retry_job(call: Call[shapes.RetryBody, None]) -> HTTPResponse:
    """Run a failed or delayed job now; replay a dead one."""
    return reply(shapes.Job.of(await call.server.services.retry.retry_job(parse_id(call.path["job_id"]))))


async def cancel_matching(call: Call[shapes.CancelMatchingBody, None]) -> HTTPResponse:
    """Cancel all jobs that match a filter; a dry run counts them."""
    result = await call.server.services.cancel.cancel_matching(
        _filter(call, call.body.filter), validate_reason(call.body.reason), dry_run=call.body.dry_run
    )
    return reply(shapes.BulkReply(result.matched, result.changed, call.body.dry_run))


async def retry_matching(call: Call[shapes.RetryMatchingBody, None]) -> HTTPResponse:
    """Retry all jobs that match a filter; a dry run counts them."""
    result = await call.server.services.retry.retry_matching(_filter(call, call.body.filter), dry_run=call.body.dry_run)
    return reply(shapes.BulkReply(result.matched, result.changed, call.body.dry_run))


def _filter(call: Call[Any, None], given: shapes.FilterBody) -> JobFilter:
    return JobFilter(
        status=given.status,
        queue=_clean(given.queue, "filter.queue", call),
        type=_clean(given.type, "filter.type", call),
        tag=_clean(given.tag, "filter.tag", call),
        created_from=validate_moment(given.created_after, "filter.created_after"),
        created_before=validate_moment(given.created_before, "filter.created_before"),
    )


async def reschedule_job(call: Call[shapes.PatchBody, None]) -> HTTPResponse:
    """Change when, where and how urgently a waiting job runs."""
    body = call.body
    if not any(value is not None for value in msgspec.structs.astuple(body)):
        message = "There is nothing to change; give run_at, delay_seconds, priority, queue or max_retries."
        raise InvalidRequest(message, problems=[FieldProblem("body", message)])
    validate_change(
        JobDraft(
            queue=body.queue,
            priority=body.priority or 0,
            delay_ms=None if body.delay_seconds is None else body.delay_seconds * 1000,
            run_at=body.run_at,
            max_retries=body.max_retries,
        ),
        call.server.limits,
        unit="seconds",
    )
    job = await call.server.services.reschedule.reschedule_job(
        parse_id(call.path["job_id"]),
        run_at=body.run_at,
        delay_ms=None if body.delay_seconds is None else body.delay_seconds * 1000,
        priority=body.priority,
        queue=body.queue,
        max_retries=body.max_retries,
    )
    return reply(shapes.Job.of(job))


def _jobs_of(server: Server, bodies: Sequence[shapes.JobBody]) -> list[NewJob]:
    """Return the jobs of a batch; a path for each takes time, so only a problem has them read with paths."""
    try:
        return [_job_of(server, body) for body in bodies]
    except (InvalidRequest, PayloadTooLarge):
        return [_job_of(server, body, path=f"jobs[{position}].") for position, body in enumerate(bodies)]


def _job_of(server: Server, body: shapes.JobBody, *, path: str = "", request_key: str | None = None) -> NewJob:
    backoff = body.backoff
    draft = JobDraft(
        type=body.type,
        payload=bytes(body.payload),
        id=body.id,
        queue=body.queue,
        priority=body.priority,
        delay_ms=None if body.delay_seconds is None else body.delay_seconds * 1000,
        run_at=body.run_at,
        max_retries=body.max_retries,
        unique_key=body.unique_key,
        tags=body.tags,
        backoff=None if backoff is None else msgspec.structs.asdict(backoff),
        timeout_ms=None if body.timeout_seconds is None else _milliseconds(body.timeout_seconds),
        request_key=request_key,
    )
    return validate_job(draft, server.limits, path=path, unit="seconds")


def _milliseconds(seconds: float) -> int:
    # Past any limit, but still a number that can be compared with one; and never 0, which means no limit.
    return math.ceil(min(max(seconds, -1e12), 1e12) * 1000)


ROUTES = (
    Route(
        "POST",
        "/v1/jobs",
        submit_job,
        "Submit a job",
        body=shapes.JobBody,
        reply=shapes.Submitted,
        status=201,
        headers=("Idempotency-Key",),
        errors=(400, 401, 409, 413, 422, 503),
    ),
    Route(
        "POST",
        "/v1/jobs/batch",
        submit_batch,
        "Submit a batch, or import NDJSON",
        body=shapes.BatchBody,
        reply=shapes.SubmittedBatch,
        status=201,
        is_stream=True,
        errors=(400, 401, 409, 413, 422, 429, 503),
    ),
    Route("GET", "/v1/jobs", list_jobs, "List jobs", query=shapes.ListQuery, reply=shapes.JobPage),
    Route(
        "POST",
        "/v1/jobs/cancel",
        cancel_matching,
        "Cancel all that match",
        body=shapes.CancelMatchingBody,
        reply=shapes.BulkReply,
    ),
    Route(
        "POST",
        "/v1/jobs/retry",
        retry_matching,
        "Retry all that match",
        body=shapes.RetryMatchingBody,
        reply=shapes.BulkReply,
    ),
    Route(
        "GET",
        "/v1/jobs/<job_id:str>",
        read_job,
        "Read a job",
        query=shapes.GetQuery,
        reply=shapes.Job,
        errors=(401, 404, 422),
    ),
    Route(
        "PATCH",
        "/v1/jobs/<job_id:str>",
        reschedule_job,
        "Change a waiting job",
        body=shapes.PatchBody,
        reply=shapes.Job,
        errors=(401, 404, 409, 422),
    ),
    Route(
        "POST",
        "/v1/jobs/<job_id:str>/cancel",
        cancel_job,
        "Cancel a job",
        body=shapes.CancelBody,
        reply=shapes.Job,
        errors=(401, 404, 409, 422),
    ),
    Route(
        "POST",
        "/v1/jobs/<job_id:str>/retry",
        retry_job,
        "Run a job now",
        body=shapes.RetryBody,
        reply=shapes.Job,
        errors=(401, 404, 409, 422),
    ),
    Route(
        "GET",
        "/v1/jobs/<job_id:str>/history",
        list_history,
        "Read a job's history",
        query=shapes.HistoryQuery,
        reply=shapes.History,
        errors=(401, 404, 422),
    ),
    Route(
        "GET",
        "/v1/jobs/<job_id:str>/logs",
        list_logs,
        "Read a job's log lines",
        reply=shapes.Logs,
        errors=(401, 404, 422),
    ),
)
