"""What a server with its default settings refuses of a submission, for the queue of tests.

The rules are the server's (`quorra_server.domain`), which the SDK does not import; a test holds the two together.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from quorra_proto.v1 import quorra_pb2 as pb

from quorra_worker_sdk.errors import InvalidRequest, PayloadTooLarge

DAY_SECONDS = 86_400
PAYLOAD_BYTES_MAX = 1024 * 1024
BATCH_JOBS_MAX = 10_000
NAME_CHARACTERS_MAX = 255
JSON_DEPTH_MAX = 64
TAGS_MAX = 32
TAG_CHARACTERS_MAX = 64
RETRIES_MAX = 1_000
DELAY_SECONDS_MAX = 10 * 365 * DAY_SECONDS
TIMEOUT_SECONDS_MAX = 7 * DAY_SECONDS
BACKOFF_SECONDS_MIN = 0.001
BACKOFF_SECONDS_MAX = 30 * DAY_SECONDS
BACKOFF_KINDS = ("exponential", "linear", "fixed")
REASON_CHARACTERS_MAX = 1_000
YEARS = (2000, 9000)

# A field and what is wrong with it, as the rest of a sentence; None if nothing is.
Finding = tuple[str, str | None]


def check_job(spec: pb.JobSpec, path: str, now: datetime, idempotency_key: str = "") -> None:
    """Refuse a job that a server would refuse.

    Args:
        path: Put before the field that the error names, such as `jobs[3].`.

    Raises:
        InvalidRequest: A field is wrong; names the first one.
        PayloadTooLarge: The payload is over its limit.
    """
    if len(spec.payload) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"payload has {len(spec.payload):,} bytes; at most {PAYLOAD_BYTES_MAX:,} are taken", field=f"{path}payload"
        )
    for field, problem in _findings(spec, now, idempotency_key):
        if problem:
            raise InvalidRequest(f"{field} {problem}", field=path + field)


def check_batch(specs: Sequence[pb.JobSpec], now: datetime) -> None:
    """Refuse a batch that a server would refuse.

    Raises:
        InvalidRequest: A field of a job is wrong; names the first one.
        PayloadTooLarge: A payload is over its limit, or there are too many jobs.
    """
    if len(specs) > BATCH_JOBS_MAX:
        raise PayloadTooLarge(f"there are {len(specs):,} jobs; a batch takes {BATCH_JOBS_MAX:,}", field="jobs")
    for position, spec in enumerate(specs):
        check_job(spec, f"jobs[{position}].", now)


def check_id(text: str) -> None:
    """Refuse what is not a UUID in its usual form.

    Raises:
        InvalidRequest: It is none.
    """
    if problem := _id_problem(text):
        raise InvalidRequest(f"id {problem}", field="id")


def check_reason(text: str) -> None:
    """Refuse a reason that a server would refuse.

    Raises:
        InvalidRequest: It is too long, or has a NUL character.
    """
    if len(text) > REASON_CHARACTERS_MAX or "\0" in text:
        raise InvalidRequest(
            f"reason is not usable; give at most {REASON_CHARACTERS_MAX:,} characters without NUL", field="reason"
        )


def _findings(spec: pb.JobSpec, now: datetime, idempotency_key: str) -> Iterator[Finding]:
    """Look at the fields in the server's order; what is empty is not given."""
    if spec.id:
        yield "id", _id_problem(spec.id)
    yield "type", _text_problem(spec.type)
    if spec.queue:
        yield "queue", _text_problem(spec.queue)
    yield "payload", _payload_problem(spec.payload)
    yield "max_retries", _range_problem(spec.max_retries, 0, RETRIES_MAX)
    if spec.HasField("run_at"):
        yield "run_at", _run_at_problem(spec, now)
    yield "delay_ms", _range_problem(spec.delay_ms, 0, DELAY_SECONDS_MAX * 1000)
    yield "timeout_ms", _range_problem(spec.timeout_ms, 0, TIMEOUT_SECONDS_MAX * 1000)
    if spec.unique_key:
        yield "unique_key", _text_problem(spec.unique_key)
    if idempotency_key:
        yield "Idempotency-Key", _text_problem(idempotency_key)
    if len(spec.tags) > TAGS_MAX:
        yield "tags", f"are {len(spec.tags):,}; give at most {TAGS_MAX}"
    for position, tag in enumerate(spec.tags):
        yield f"tags[{position}]", _text_problem(tag, TAG_CHARACTERS_MAX)
    if spec.HasField("backoff"):
        yield from _backoff_findings(spec.backoff)


def _backoff_findings(rule: pb.Backoff) -> Iterator[Finding]:
    if rule.kind and rule.kind not in BACKOFF_KINDS:
        yield "backoff.kind", f"is {rule.kind!r}; use one of {', '.join(BACKOFF_KINDS)}"
    for field in ("base_seconds", "max_seconds"):
        if seconds := getattr(rule, field):
            yield f"backoff.{field}", _range_problem(seconds, BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX)
    yield "backoff.jitter", _range_problem(rule.jitter, 0, 1)


def _id_problem(text: str) -> str | None:
    try:
        # UUID() also takes braces, URNs and missing hyphens.
        is_usual = str(UUID(text)) == text.lower()
    except ValueError:
        is_usual = False
    return None if is_usual else "is not a UUID; use its usual form, such as 019ab3f0-7c1e-7000-8000-000000000000"


def _text_problem(text: str, characters_max: int = NAME_CHARACTERS_MAX) -> str | None:
    if not 1 <= len(text) <= characters_max:
        return f"has {len(text):,} characters; give 1 to {characters_max}"
    return None if text.isprintable() else "has control or unprintable characters; use printable ones"


def _range_problem(value: float, low: float, high: float) -> str | None:
    return None if low <= value <= high else f"is {value}; use {low} to {high}"


def _run_at_problem(spec: pb.JobSpec, now: datetime) -> str | None:
    if spec.delay_ms:
        return "and delay_ms exclude each other; give one of them"
    try:
        run_at = spec.run_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return "is out of range; use the years 1 to 9999"
    if not YEARS[0] <= run_at.year <= YEARS[1]:
        return f"is in the year {run_at.year}; use {YEARS[0]} to {YEARS[1]}"
    if (run_at - now).total_seconds() > DELAY_SECONDS_MAX + DAY_SECONDS:
        return f"is more than {DELAY_SECONDS_MAX // DAY_SECONDS:,} days ahead; choose an earlier time"
    return None


def _payload_problem(payload: bytes) -> str | None:
    try:
        text = payload.decode()
        value = json.loads(text, object_pairs_hook=_flat, parse_constant=_refuse_constant)
        levels, characters = _levels(value), _characters(value)
        characters.encode()
    except (ValueError, RecursionError) as error:
        return f"is not JSON that every reader can use: {error}"
    if not text.lstrip(" \t\r\n").startswith("{"):
        return 'needs to be a JSON object, such as {"to": "a@b.c"}'
    if levels > JSON_DEPTH_MAX:
        return f"is nested deeper than {JSON_DEPTH_MAX} levels; flatten it"
    return "has a NUL character, which cannot be stored; remove it" if "\0" in characters else None


def _flat(pairs: list[tuple[str, Any]]) -> list[Any]:
    """Make a list of an object, with the keys that come twice."""
    return list(itertools.chain.from_iterable(pairs))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _levels(value: Any) -> int:
    return 1 + max(map(_levels, value), default=0) if isinstance(value, list) else 0


def _characters(value: Any) -> str:
    if isinstance(value, list):
        return "".join(map(_characters, value))
    return value if isinstance(value, str) else ""
