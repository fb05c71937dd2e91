"""From what a client said to a job that can be stored; every problem is found at once, with its field and remedy."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID

from msgspec import Struct, structs

from quorra_server.domain.errors import FieldProblem, InvalidRequest
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import NewJob
from quorra_server.domain.json_text import checked_json
from quorra_server.domain.limits import DAY_SECONDS, Limits, setting_of
from quorra_server.domain.retry import Backoff, BackoffKind

INT32 = (-(2**31), 2**31 - 1)
RETRIES_DEFAULT = 3
YEARS = (2000, 9000)
REASON_CHARACTERS_MAX = 1_000
IDS_MAX = 1_000
BACKOFF_KINDS = get_args(BackoffKind)
Unit = Literal["seconds", "ms"]


class JobDraft(Struct, frozen=True, gc=False):
    """What a client may say of a job; None means that it said nothing."""

    type: str | None = None
    payload: bytes | str | None = None
    id: str | None = None
    queue: str | None = None
    priority: int = 0
    delay_ms: int | None = None
    run_at: datetime | None = None
    max_retries: int | None = None
    unique_key: str | None = None
    tags: Sequence[str] = ()
    backoff: Mapping[str, Any] | None = None
    timeout_ms: int | None = None
    request_key: str | None = None


class _Problems:
    """Collects what is wrong with one draft."""

    __slots__ = ("_path", "found")

    def __init__(self, path: str) -> None:
        self._path = path
        self.found: list[FieldProblem] = []

    def add(self, field: str, message: str) -> None:
        self.found.append(FieldProblem(self._path + field, message))


def validate_job(draft: JobDraft, limits: Limits, *, path: str = "", unit: Unit = "ms") -> NewJob:
    """Return the job of a draft.

    Args:
        path: Put before each field that is named in a problem, such as `jobs[3].`.
        unit: In which the caller gave `delay_…` and `timeout_…`; problems name and count them so.

    Raises:
        InvalidRequest: With every problem found.
        PayloadTooLarge: The payload is over its limit.
    """
    problems = _Problems(path)
    job_id = new_job_id() if draft.id is None else _id(draft.id, problems)
    name = _text(draft.type, "type", limits, problems, is_required=True)
    queue = _text(draft.queue, "queue", limits, problems) if draft.queue is not None else "default"
    payload = _payload(draft.payload, limits, path, problems)
    _range(draft.priority, "priority", *INT32, problems)
    retries = RETRIES_DEFAULT if draft.max_retries is None else draft.max_retries
    if not 0 <= retries <= limits.retries_max:
        problems.add("max_retries", f"max_retries is {retries}; use 0 to {limits.named('retries_max')}.")
    if draft.delay_ms is not None or draft.run_at is not None:
        _when(draft, limits, problems, unit)
    if draft.timeout_ms is not None:
        _duration(draft.timeout_ms, "timeout", limits, problems, unit)
    if draft.unique_key is not None:
        _text(draft.unique_key, "unique_key", limits, problems)
    if draft.request_key is not None:
        _text(draft.request_key, "Idempotency-Key", limits, problems)
    if draft.tags:
        _tags(draft.tags, limits, problems)
    backoff = None if draft.backoff is None else _backoff(draft.backoff, limits, problems)
    if problems.found:
        raise InvalidRequest(problems.found[0].message, problems=problems.found)
    return NewJob(
        id=job_id,
        type=name,
        payload=payload,
        queue=queue,
        priority=draft.priority,
        max_retries=retries,
        delay_ms=draft.delay_ms or 0,
        run_at=draft.run_at,
        timeout_ms=draft.timeout_ms or 0,
        tags=tuple(draft.tags),
        backoff=backoff,
        unique_key=draft.unique_key,
        request_key=draft.request_key,
        id_is_callers=draft.id is not None,
    )


def validate_change(draft: JobDraft, limits: Limits, *, unit: Unit = "ms") -> None:
    """Check what an operator wants to change of a waiting job: the bounds are those of a submission.

    Args:
        draft: None, or priority 0, where nothing changes.

    Raises:
        InvalidRequest: With every problem found.
    """
    validate_job(structs.replace(draft, type="any", payload=b"{}"), limits, unit=unit)


def validate_ids(texts: Sequence[str], field: str = "ids") -> list[UUID]:
    """Return the ids that some texts spell.

    Raises:
        InvalidRequest: There is none, there are too many, or one is not a UUID.
    """
    if not 1 <= len(texts) <= IDS_MAX:
        message = f"There are {len(texts):,} ids; give 1 to {IDS_MAX:,}."
        raise InvalidRequest(message, problems=[FieldProblem(field, message)])
    return [parse_id(text, f"{field}[{position}]") for position, text in enumerate(texts)]


def validate_backoff(given: Mapping[str, Any], limits: Limits) -> Backoff:
    """Return a back-off rule, of a queue or a job.

    Raises:
        InvalidRequest: With every problem found.
    """
    problems = _Problems("")
    backoff = _backoff(given, limits, problems)
    if problems.found:
        raise InvalidRequest(problems.found[0].message, problems=problems.found)
    return backoff


def validate_name(value: str, field: str, limits: Limits) -> str:
    """Return a queue's or a type's name as it is.

    Raises:
        InvalidRequest: It is empty, too long, or has control characters.
    """
    problems = _Problems("")
    _text(value, field, limits, problems)
    if problems.found:
        raise InvalidRequest(problems.found[0].message, problems=problems.found)
    return value


def validate_reason(text: str | None, field: str = "reason") -> str | None:
    """Return why somebody does something as it is; an empty text is none.

    Raises:
        InvalidRequest: It is too long, or has a character that cannot be stored.
    """
    if not text:
        return None
    message = None
    if len(text) > REASON_CHARACTERS_MAX:
        message = f"{field} has {len(text):,} characters; give at most {REASON_CHARACTERS_MAX:,}."
    elif "\0" in text:
        message = f"{field} has a NUL character, which cannot be stored; remove it."
    if message:
        raise InvalidRequest(message, problems=[FieldProblem(field, message)])
    return text


def validate_moment(moment: datetime | None, field: str) -> datetime | None:
    """Return a moment of a filter as it is; None stays None.

    Raises:
        InvalidRequest: It is so far away that no job can be there.
    """
    if moment is None or YEARS[0] <= moment.year <= YEARS[1]:
        return moment
    message = f"{field} is in the year {moment.year}; use {YEARS[0]} to {YEARS[1]}."
    raise InvalidRequest(message, problems=[FieldProblem(field, message)])


def parse_id(text: str, field: str = "id") -> UUID:
    """Return the id that a text spells.

    Raises:
        InvalidRequest: It is not a UUID in its usual form.
    """
    try:
        # UUID() also takes braces, URNs and missing hyphens; one spelling keeps ids comparable as text.
        job_id = UUID(text)
    except ValueError:
        job_id = None
    if job_id is None or str(job_id) != text.lower():
        message = f"{field} is not a UUID; use its usual form, such as 019ab3f0-7c1e-7000-8000-000000000000."
        raise InvalidRequest(message, problems=[FieldProblem(field, message)])
    return job_id


def _id(text: str, problems: _Problems) -> UUID:
    try:
        return parse_id(text)
    except InvalidRequest as error:
        problems.add("id", error.message)
        return new_job_id()


def _text(
    value: str | None,
    field: str,
    limits: Limits,
    problems: _Problems,
    *,
    length: Literal["name_characters_max", "tag_characters_max"] = "name_characters_max",
    is_required: bool = False,
) -> str:
    if value is None or (is_required and not value):
        problems.add(
            field, f"{field} is missing; give 1 to {getattr(limits, length)} characters ({setting_of(length)})."
        )
        return ""
    if not 1 <= len(value) <= getattr(limits, length):
        problems.add(field, f"{field} has {len(value):,} characters; give 1 to {limits.named(length)}.")
    elif not value.isprintable():
        problems.add(field, f"{field} has control or unprintable characters; use printable ones.")
    return value


def _payload(payload: bytes | str | None, limits: Limits, path: str, problems: _Problems) -> str:
    if payload is None or payload == b"":
        problems.add("payload", "payload is missing; give a JSON object, {} if there is nothing to say.")
        return ""
    try:
        return checked_json(payload, f"{path}payload", limits, object_only=True)
    except InvalidRequest as error:
        problems.found.extend(error.problems)
        return ""


def _range(value: int, field: str, low: int, high: int, problems: _Problems) -> None:
    if not low <= value <= high:
        problems.add(field, f"{field} is {value}; use {low} to {high}.")


def _duration(
    given_ms: int, name: Literal["delay", "timeout"], limits: Limits, problems: _Problems, unit: Unit
) -> None:
    seconds_max: int = getattr(limits, f"{name}_seconds_max")
    if 0 <= given_ms <= seconds_max * 1000:
        return
    field = f"{name}_{unit}"
    most = seconds_max * 1000 if unit == "ms" else seconds_max
    problems.add(field, f"{field} is {_given(given_ms, unit)}; use 0 to {most} ({setting_of(f'{name}_seconds_max')}).")


def _given(given_ms: int, unit: Unit) -> int | float:
    """Return a duration in its caller's unit. Whole numbers stay so: one of hundreds of digits is no float."""
    if unit == "ms":
        return given_ms
    return given_ms / 1000 if given_ms % 1000 else given_ms // 1000


def _when(draft: JobDraft, limits: Limits, problems: _Problems, unit: Unit) -> None:
    if draft.delay_ms is not None and draft.run_at is not None:
        problems.add("run_at", f"run_at and delay_{unit} exclude each other; give one of them.")
    if draft.delay_ms is not None:
        _duration(draft.delay_ms, "delay", limits, problems, unit)
    if draft.run_at is None:
        return
    if draft.run_at.tzinfo is None:
        problems.add("run_at", "run_at has no offset from UTC; write it like 2026-01-31T08:00:00Z.")
    elif not YEARS[0] <= draft.run_at.year <= YEARS[1]:
        problems.add("run_at", f"run_at is in the year {draft.run_at.year}; use {YEARS[0]} to {YEARS[1]}.")
    elif (draft.run_at - datetime.now(UTC)).total_seconds() > limits.delay_seconds_max + DAY_SECONDS:
        days = f"{limits.delay_seconds_max // DAY_SECONDS:,} days ({setting_of('delay_seconds_max')})"
        problems.add("run_at", f"run_at is more than {days} ahead; choose an earlier time.")


def _tags(tags: Sequence[str], limits: Limits, problems: _Problems) -> None:
    if len(tags) > limits.tags_max:
        problems.add("tags", f"There are {len(tags):,} tags; at most {limits.named('tags_max')} are taken.")
    for position, tag in enumerate(tags[: limits.tags_max]):
        _text(tag, f"tags[{position}]", limits, problems, length="tag_characters_max")


def _backoff(given: Mapping[str, Any], limits: Limits, problems: _Problems) -> Backoff:
    kind = given.get("kind", "exponential")
    base = given.get("base_seconds", 2.0)
    longest = given.get("max_seconds", 3600.0)
    jitter = given.get("jitter", 0.0)
    if kind not in BACKOFF_KINDS:
        problems.add("backoff.kind", f"backoff.kind is {kind!r}; use one of {', '.join(BACKOFF_KINDS)}.")
    for field, value, low, high in (
        ("base_seconds", base, 0.001, float(limits.backoff_seconds_max)),
        ("max_seconds", longest, 0.001, float(limits.backoff_seconds_max)),
        ("jitter", jitter, 0.0, 1.0),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            problems.add(f"backoff.{field}", f"backoff.{field} is {value}; use {low:g} to {high:g}.")
    return Backoff(kind=kind, base_seconds=float(base), max_seconds=float(longest), jitter=float(jitter))
