"""Between the wire's messages and the domain's values."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet
from quorra_proto.v1 import quorra_pb2 as pb

from quorra_server.domain.errors import FieldProblem, InvalidRequest, PayloadTooLarge
from quorra_server.domain.job import Attempt, JobDetails, LeaseBatch, LeasedJob, LeaseId, Report, Settled
from quorra_server.domain.json_text import checked_json
from quorra_server.domain.limits import Limits
from quorra_server.domain.retry import Backoff
from quorra_server.domain.states import OutcomeKind
from quorra_server.domain.validation import JobDraft
from quorra_server.services.lease_ids import decode_lease_id, decode_lease_ids, encode_lease_id, lease_id_tail, text_of
from quorra_server.services.settle import Incident, lease_was_lost
from quorra_server.storage.workers import LiveWorker

UTF8_BYTES_PER_CHARACTER_MAX = 4
MILLISECONDS_MAX = 10 * 365 * 86_400_000


def add_jobs(message: pb.Jobs, batch: LeaseBatch, jobs: Sequence[LeasedJob]) -> None:
    """Add some jobs of a lease batch to a message, as they travel.

    Most jobs of a batch differ in few fields: the others are copied from a message that was built once. That takes a
    sixth of the time that building each message takes.
    """
    tail = lease_id_tail(batch.batch, batch.secret)
    # What jobs with the same traits share. Jobs that were submitted together are alike, and follow each other.
    alike: dict[tuple[object, ...], pb.Job] = {}
    shared = pb.Job()
    traits: tuple[object, ...] | None = None
    moments: tuple[int, int] | None = None
    for job in jobs:
        if job.traits != traits:
            traits, moments = job.traits, None
            shared = alike[traits] = alike.get(traits) or _shared_fields(batch, job)
        if (job.run_at_us, job.created_at_us) != moments:
            moments = job.run_at_us, job.created_at_us
            _set_time(shared.run_at, job.run_at_us)
            _set_time(shared.created_at, job.created_at_us)
        copied = message.jobs.add()
        copied.CopyFrom(shared)
        copied.id = job.id
        copied.payload = job.payload.encode()
        copied.lease_id = encode_lease_id(job.ordinal, job.id.replace("-", ""), tail)
        if batch.checkpoints and job.job_id in batch.checkpoints:
            copied.checkpoint = batch.checkpoints[job.job_id].encode()


def _shared_fields(batch: LeaseBatch, job: LeasedJob) -> pb.Job:
    return pb.Job(
        type=job.type,
        priority=job.priority,
        attempts=job.attempts,
        max_retries=job.max_retries,
        leased_at=_timestamp_us(batch.leased_at_us),
        queue=batch.queue,
        lease_expires_in_ms=batch.left_ms,
        generation=job.generation,
        deliveries=job.deliveries,
        timeout_ms=job.timeout_ms,
    )


def _set_time(message: Timestamp, microseconds: int) -> None:
    message.seconds, rest = divmod(microseconds, 1_000_000)
    message.nanos = rest * 1000


def _timestamp_us(microseconds: int) -> Timestamp:
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return a moment as it travels; None stays absent."""
    return None if moment is None else _timestamp_us(int(moment.timestamp() * 1_000_000))


def moment(message: Timestamp, field: str) -> datetime:
    """Return the moment of a timestamp message.

    Raises:
        InvalidRequest: It is outside the years 1 to 9999.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("The time is out of range; use the years 1 to 9999.", field=field) from error


def outcome_reports(message: pb.Reports, limits: Limits) -> tuple[list[Report], list[pb.Refused]]:
    """Return the outcomes among a worker's reports, and refusals of those that cannot be read.

    Of several outcomes for one lease the first one counts.
    """
    reports: dict[tuple[int, int], Report] = {}
    refused: list[pb.Refused] = []
    kinds: Sequence[tuple[Sequence[Any], Callable[[LeaseId, Any, Limits], Report]]] = (
        (message.succeeded, _success),
        (message.failed, _failure),
        (message.released, _release),
        (message.snoozed, _snooze),
        (message.cancelled, _cancellation),
    )
    for entries, read in kinds:
        decoded = decode_lease_ids([entry.lease_id for entry in entries]) if entries else ()
        # One by one where one of them cannot be read, so that only that one is refused.
        for entry, known in zip(entries, repeat(None) if decoded is None else decoded, strict=False):
            try:
                lease = known or decode_lease_id(entry.lease_id)
                reports.setdefault(lease[:2], read(lease, entry, limits))
            except (InvalidRequest, PayloadTooLarge) as error:
                refused.append(
                    pb.Refused(lease_id=entry.lease_id, reason=pb.REFUSAL_REASON_INVALID, outcome=error.message)
                )
    return list(reports.values()), refused


def _success(lease: LeaseId, entry: pb.Succeeded, limits: Limits) -> Report:
    # Most runs have no result: a call is saved.
    result = json_text(entry.result, "result", limits) if entry.result else None
    return Report(lease, OutcomeKind.SUCCEEDED, milliseconds(entry.run_ms), result)


def _failure(lease: LeaseId, entry: pb.Failed, limits: Limits) -> Report:
    return Report(
        lease,
        OutcomeKind.FAILED,
        milliseconds(entry.run_ms),
        error=readable(entry.error, limits.error_bytes_max) or "failed without a message",
        error_kind=readable(entry.kind, limits.error_bytes_max)[:255] or None,
        delay_ms=milliseconds(entry.retry_after_ms) if entry.HasField("retry_after_ms") else None,
        non_retryable=entry.non_retryable,
    )


def _release(lease: LeaseId, entry: pb.Released, limits: Limits) -> Report:
    return Report(
        lease,
        OutcomeKind.RELEASED,
        delay_ms=milliseconds(entry.delay_ms),
        error=readable(entry.reason, limits.error_bytes_max) or None,
    )


def _snooze(lease: LeaseId, entry: pb.Snoozed, limits: Limits) -> Report:
    return Report(
        lease,
        OutcomeKind.SNOOZED,
        delay_ms=milliseconds(entry.delay_ms),
        error=readable(entry.reason, limits.error_bytes_max) or None,
    )


def _cancellation(lease: LeaseId, entry: pb.Cancelled, limits: Limits) -> Report:
    return Report(
        lease,
        OutcomeKind.CANCELLED,
        milliseconds(entry.run_ms),
        error=readable(entry.reason, limits.error_bytes_max) or None,
    )


def json_text(raw: bytes, field: str, limits: Limits) -> str | None:
    """Return a result or a checkpoint as it is kept; empty means none.

    Raises:
        InvalidRequest: It is not JSON that every reader can use.
        PayloadTooLarge: It is over its limit.
    """
    return checked_json(raw, field, limits, size="result_bytes_max") if raw else None


def milliseconds(value: int) -> int:
    """Return a duration of a worker's within bounds that every date can bear: 0 to ten years."""
    if 0 <= value <= MILLISECONDS_MAX:
        return value
    return 0 if value < 0 else MILLISECONDS_MAX


def readable(text: str, bytes_max: int) -> str:
    """Return a text that PostgreSQL can keep, cut to so many bytes of UTF-8; never within a character."""
    kept = text.replace("\x00", "\N{REPLACEMENT CHARACTER}") if "\x00" in text else text
    if len(kept) * UTF8_BYTES_PER_CHARACTER_MAX > bytes_max:
        kept = kept.encode()[:bytes_max].decode(errors="ignore")
    return kept


def refusal(settled: Settled) -> pb.Refused:
    """Return what a worker is told of a report that did not decide."""
    if lease_was_lost(settled):
        reason = pb.REFUSAL_REASON_LEASE_LOST
    elif settled.is_repeat:
        reason = pb.REFUSAL_REASON_ALREADY_SETTLED_SAME
    else:
        reason = pb.REFUSAL_REASON_ALREADY_SETTLED_OTHER
    return pb.Refused(
        lease_id=text_of(settled.lease), reason=reason, outcome=settled.stands.value if settled.stands else ""
    )


def incident_refusal(met: Incident) -> pb.Refused:
    """Return what a worker is told of a report that a bug keeps from being recorded."""
    return pb.Refused(
        lease_id=text_of(met.report.lease),
        reason=pb.REFUSAL_REASON_INVALID,
        outcome=f"A bug of the server's; report incident {met.incident}.",
    )


def refuse_unknown(message: Message, path: str = "") -> None:
    """Refuse fields that this server does not know: what they ask for would silently not happen.

    Args:
        path: Put before the number of the field, such as `jobs[3].`.

    Raises:
        InvalidRequest: There is one; names its number.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        field = f"{path}{unknown[0].field_number}"
        sentence = (
            f"{field} is not the number of a field that is taken here; remove it, or ask a server of the version that "
            "has it (quorra.proto lists all)."
        )
        raise InvalidRequest(sentence, problems=[FieldProblem(field, sentence)])


def draft(spec: pb.JobSpec, request_key: str = "", *, path: str = "") -> JobDraft:
    """Return a submission as a draft for validation.

    Raises:
        InvalidRequest: It has a field that this server does not know, or a time out of range.
    """
    refuse_unknown(spec, path)
    return JobDraft(
        id=spec.id or None,
        type=spec.type or None,
        payload=spec.payload,
        queue=spec.queue or None,
        priority=spec.priority,
        delay_ms=spec.delay_ms or None,
        run_at=moment(spec.run_at, f"{path}run_at") if spec.HasField("run_at") else None,
        max_retries=spec.max_retries if spec.HasField("max_retries") else None,
        unique_key=spec.unique_key or None,
        tags=spec.tags or (),
        backoff=backoff_fields(spec.backoff, path) if spec.HasField("backoff") else None,
        timeout_ms=spec.timeout_ms or None,
        request_key=request_key or None,
    )


def backoff_fields(message: pb.Backoff, path: str) -> dict[str, Any]:
    """Return what a client says of a back-off; what it does not say is left out."""
    refuse_unknown(message, f"{path}backoff.")
    given = {
        "kind": message.kind,
        "base_seconds": message.base_seconds,
        "max_seconds": message.max_seconds,
        "jitter": message.jitter,
    }
    return {name: value for name, value in given.items() if value}


def details(job: JobDetails) -> pb.JobDetails:
    """Return a whole job."""
    return pb.JobDetails(
        id=str(job.id),
        type=job.type,
        payload=job.payload.encode(),
        queue=job.queue,
        priority=job.priority,
        status=job.status.value,
        attempts=job.attempts,
        deliveries=job.deliveries,
        generation=job.generation,
        max_retries=job.max_retries,
        last_error=job.last_error or "",
        result=(job.result or "").encode(),
        created_at=timestamp(job.created_at),
        updated_at=timestamp(job.updated_at),
        run_at=timestamp(job.run_at),
        leased_at=timestamp(job.leased_at),
        started_at=timestamp(job.started_at),
        finished_at=timestamp(job.finished_at),
        lease_expires_at=timestamp(job.lease_expires_at),
        leased_by=job.leased_by or "",
        tags=job.tags,
        unique_key=job.unique_key or "",
        backoff=backoff_message(job.backoff),
        timeout_ms=job.timeout_ms,
        dead_because=job.dead_because or "",
    )


def attempt_errors(attempts: Sequence[Attempt]) -> list[pb.AttemptError]:
    """Return the errors among a job's attempts."""
    return [
        pb.AttemptError(
            attempt=attempt.attempt,
            generation=attempt.generation,
            error=attempt.error,
            kind=attempt.error_kind or "",
            at=timestamp(attempt.ended_at),
        )
        for attempt in attempts
        if attempt.error is not None
    ]


def backoff_message(backoff: Backoff | None) -> pb.Backoff | None:
    """Return a back-off rule; None stays absent."""
    if backoff is None:
        return None
    return pb.Backoff(
        kind=backoff.kind,
        base_seconds=backoff.base_seconds,
        max_seconds=backoff.max_seconds,
        jitter=backoff.jitter,
    )


def history_entry(attempt: Attempt) -> pb.HistoryEntry:
    """Return a lease of a job and how it ended."""
    return pb.HistoryEntry(
        outcome=attempt.kind.value,
        attempt=attempt.attempt,
        delivery=attempt.delivery,
        generation=attempt.generation,
        worker=attempt.worker,
        leased_at=timestamp(attempt.leased_at),
        started_at=timestamp(attempt.started_at),
        ended_at=timestamp(attempt.ended_at),
        error=attempt.error or "",
        error_kind=attempt.error_kind or "",
        reason=attempt.reason or "",
        late=attempt.late,
    )


def live_worker(worker: LiveWorker) -> pb.LiveWorker:
    """Return a worker that was heard of lately."""
    return pb.LiveWorker(
        worker_id=worker.worker,
        boot_id=worker.boot_id,
        node=worker.node,
        host=worker.host,
        pid=worker.pid,
        version=worker.sdk,
        slots=worker.slots,
        running=worker.running,
        queues=worker.queues,
        types=worker.types,
        labels=worker.labels,
        started_at=timestamp(worker.started_at),
        last_beat=timestamp(worker.last_beat_at),
    )
