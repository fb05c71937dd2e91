"""Routes of jobs: submit, read, list, cancel, retry, change."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
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
from quorra_server.storage.jobs import JobFilter
from quorra_server.transports.pages import decode_cursor, encode_cursor
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.problems import decode_json, problem_of
from quorra_server.transports.rest.routes import (
    Call,
    Memory,
    Route,
    Server,
    body_chunks,
    check_encoding,
    check_json_type,
    read_body,
    reply,
)

WAIT_SECONDS_MAX = 60.0
IMPORT_CHUNK_JOBS = 500
IMPORT_CHUNK_BYTES = 4 * 1024 * 1024
# The fields around a payload of full size.
LINE_AIR_BYTES = 64 * 1024
NDJSON = "application/x-ndjson"

Line = tuple[int, bytes]
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
    jobs = [_job_of(server, body, path=f"jobs[{position}].") for position, body in enumerate(batch.jobs)]
    submitted = await server.services.submit.submit_jobs(jobs, call.principal)
    return reply(shapes.SubmittedBatch([shapes.Submitted.of(job) for job in submitted]), 201)


async def _import(call: Call[Memory, None]) -> HTTPResponse:
    """Import lines in bounded memory: while one chunk is recorded, at most one more is read and checked."""
    response = await call.request.respond(content_type=NDJSON, status=200)
    assert response is not None
    recording: asyncio.Task[None] | None = None

    async def record(chunk: list[Line], jobs: list[tuple[int, NewJob]], refused: Answers) -> None:
        answers = refused | await _submit_lines(call, jobs)
        await response.send(_encode_lines([answers[number] for number, _ in chunk]))

    try:
        async for chunk in _chunks(call):
            checked = _check_lines(call.server, chunk)
            if recording is not None:
                await recording
            recording = asyncio.create_task(record(chunk, *checked))
        if recording is not None:
            await recording
    finally:
        if recording is not None:
            recording.cancel()
    await response.eof()
    return cast(HTTPResponse, response)


async def _chunks(call: Call[Memory, None]) -> AsyncIterator[list[Line]]:
    """Yield the lines of a body in chunks, with their numbers; blank lines count, and are left out.

    A line that is over the payload limit comes cut, and is refused as such.
    """
    longest = _line_bytes_max(call.server)
    chunk: list[Line] = []
    count = chunk_bytes = 0
    rest = b""
    async for data in body_chunks(call.request):
        *lines, rest = (rest + data).split(b"\n")
        chunk += [(number, line) for number, line in enumerate(lines, count + 1) if line.strip()]
        count += len(lines)
        chunk_bytes += len(data)
        while len(chunk) >= IMPORT_CHUNK_JOBS or (chunk and chunk_bytes >= IMPORT_CHUNK_BYTES):
            yield chunk[:IMPORT_CHUNK_JOBS]
            chunk, chunk_bytes = chunk[IMPORT_CHUNK_JOBS:], 0
        if len(rest) > longest:
            rest = rest[: longest + 1]
    if rest.strip():
        chunk.append((count + 1, rest))
    if chunk:
        yield chunk


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
        shown.errors = shapes.errors_of(await history.list_history(call.server.database.main, job_id))
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
    if not 1 <= limit <= server.limits.page_jobs_max:
        message = f"limit is {limit}; use 1 to {server.limits.named('page_jobs_max')}."
        raise InvalidRequest(message, problems=[FieldProblem("limit", message)])
    after = decode_cursor(cursor, "cursor") if cursor is not None else None
    positions = await store.list_jobs(server.database.main, wanted, limit=limit, after=after)
    jobs = await store.get_jobs(server.database.main, [position.job_id for position in positions])
    next_cursor = encode_cursor(positions[-1]) if len(positions) == limit else None
    return shapes.JobPage([shapes.Job.of(job) for job in jobs], next_cursor)


async def list_history(call: Call[None, None]) -> HTTPResponse:
    """Read each lease of a job and how it ended."""
    job_id = await _known_id(call)
    attempts = await history.list_history(call.server.database.main, job_id)
    return reply(
        shapes.History(
            [
                shapes.HistoryEntry(
                    outcome=attempt.kind.value,
                    attempt=attempt.attempt,
                    delivery=attempt.delivery,
                    generation=attempt.generation,
                    worker=attempt.worker,
                    leased_at=attempt.leased_at,
                    started_at=attempt.started_at,
                    ended_at=attempt.ended_at,
                    error=attempt.error,
                    error_kind=attempt.error_kind,
                    reason=attempt.reason,
                    late=attempt.late,
                )
                for attempt in attempts
            ]
        )
    )


async def list_logs(call: Call[None, None]) -> HTTPResponse:
    """Read the last log lines of a job, oldest first: as many as an attempt may have."""
    job_id = await _known_id(call)
    lines = await history.list_logs(call.server.database.main, job_id, limit=call.server.limits.log_lines_max)
    return reply(shapes.Logs([shapes.LogEntry(line.logged_at, line.level, line.message) for line in lines]))


async def _known_id(call: Call[Any, Any]) -> UUID:
    job_id = parse_id(call.path["job_id"])
    return (await get_job(call.server.database.main, job_id)).id


async def cancel_job(call: Call[shapes.ReasonBody, None]) -> HTTPResponse:
    """Cancel a job; cancelling twice is fine."""
    reason = validate_reason(call.body.reason)
    job = await call.server.services.cancel.cancel_job(parse_id(call.path["job_id"]), reason)
    return reply(shapes.Job.of(job))


async def retry_job(call: Call[shapes.ReasonBody, None]) -> HTTPResponse:
    """Run a failed or delayed job now; replay a dead one."""
    validate_reason(call.body.reason)
    return reply(shapes.Job.of(await call.server.services.retry.retry_job(parse_id(call.path["job_id"]))))


async def cancel_matching(call: Call[shapes.BulkBody, None]) -> HTTPResponse:
    """Cancel all jobs that match a filter; a dry run counts them."""
    result = await call.server.services.cancel.cancel_matching(
        _filter(call), validate_reason(call.body.reason), dry_run=call.body.dry_run
    )
    return reply(shapes.BulkReply(result.matched, result.changed, call.body.dry_run))


async def retry_matching(call: Call[shapes.BulkBody, None]) -> HTTPResponse:
    """Retry all jobs that match a filter; a dry run counts them."""
    result = await call.server.services.retry.retry_matching(_filter(call), dry_run=call.body.dry_run)
    return reply(shapes.BulkReply(result.matched, result.changed, call.body.dry_run))


def _filter(call: Call[shapes.BulkBody, None]) -> JobFilter:
    given = call.body.filter
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
        body=shapes.BulkBody,
        reply=shapes.BulkReply,
    ),
    Route(
        "POST", "/v1/jobs/retry", retry_matching, "Retry all that match", body=shapes.BulkBody, reply=shapes.BulkReply
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
        body=shapes.ReasonBody,
        reply=shapes.Job,
        errors=(401, 404, 409, 422),
    ),
    Route(
        "POST",
        "/v1/jobs/<job_id:str>/retry",
        retry_job,
        "Run a job now",
        body=shapes.ReasonBody,
        reply=shapes.Job,
        errors=(401, 404, 409, 422),
    ),
    Route(
        "GET",
        "/v1/jobs/<job_id:str>/history",
        list_history,
        "Read a job's history",
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
