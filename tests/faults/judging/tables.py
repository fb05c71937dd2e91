"""All that the judge knows of Quorra's tables: which there are, and what their rows mean, by the names of columns."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.faults.judging.pgoutput import Row

TABLES = ("jobs", "ready", "leases", "outcomes")


@dataclass(slots=True)
class Submission:
    """A row of `jobs`."""

    job: str
    token: str | None
    plan: str
    delay: float
    type: str
    queue: str
    unique_key: str | None
    max_retries: int
    backoff: dict[str, Any] | None


@dataclass(slots=True)
class Waiting:
    """A row of `ready`."""

    job: str
    rank: int
    run_at: float
    attempts: int
    deliveries: int
    generation: int
    queue: str
    type: str

    @property
    def place_in_line(self) -> tuple[int, float, str]:
        """What jobs of one queue are leased in the order of."""
        return (self.rank, self.run_at, self.job)


@dataclass(slots=True)
class Lease:
    """A row of `leases`: one batch."""

    batch: str
    leased_at: float
    expires_at: float
    worker: str
    queue: str
    jobs: list[str]
    attempts: list[int]
    starts: list[int]
    ttl_granted: float


@dataclass(slots=True)
class Outcome:
    """A row of `outcomes`: how one lease ended, or that a waiting job was cancelled."""

    job: str
    batch: str
    kind: str
    status: str | None
    leased_at: float | None
    started_at: float | None
    ended_at: float
    retry_at: float | None
    replayed_at: float | None
    attempts: int
    deliveries: int
    generation: int
    is_late: bool
    worker: str
    result: str | None
    reason: str | None
    error_kind: str | None


def submission(row: Row) -> Submission:
    """Read a row of `jobs`."""
    payload, backoff = json.loads(_need(row, "payload")), row.get("backoff")
    return Submission(
        job=_need(row, "id"),
        token=payload.get("token"),
        plan=payload.get("plan", ""),
        delay=payload.get("delay", 0),
        type=_need(row, "type"),
        queue=_need(row, "queue"),
        unique_key=row.get("unique_key"),
        max_retries=int(_need(row, "max_retries")),
        backoff=json.loads(backoff) if backoff else None,
    )


def waiting(row: Row) -> Waiting:
    """Read a row of `ready`."""
    return Waiting(
        job=_need(row, "job_id"),
        rank=int(_need(row, "rank")),
        run_at=moment(_need(row, "run_at")),
        attempts=int(_need(row, "attempts")),
        deliveries=int(_need(row, "deliveries")),
        generation=int(_need(row, "generation")),
        queue=_need(row, "queue"),
        type=_need(row, "type"),
    )


def lease(row: Row) -> Lease:
    """Read a row of `leases`."""
    leased_at, expires_at = moment(_need(row, "leased_at")), moment(_need(row, "expires_at"))
    return Lease(
        batch=_need(row, "batch"),
        leased_at=leased_at,
        expires_at=expires_at,
        ttl_granted=expires_at - leased_at,
        worker=_need(row, "worker"),
        queue=_need(row, "queue"),
        jobs=_need(row, "job_ids")[1:-1].split(","),
        attempts=_integers(_need(row, "attempts")),
        starts=_integers(_need(row, "starts_ms")),
    )


def renewed(row: Row) -> tuple[str, float, list[int] | None]:
    """Read the batch, the end and (if the update touched them) the starts of an updated row of `leases`."""
    starts = row.get("starts_ms")
    return _need(row, "batch"), moment(_need(row, "expires_at")), _integers(starts) if starts else None


def outcome(row: Row) -> Outcome:
    """Read a row of `outcomes`."""
    return Outcome(
        job=_need(row, "job_id"),
        batch=_need(row, "batch"),
        kind=_need(row, "kind"),
        status=row.get("status"),
        leased_at=_moment_or_none(row.get("leased_at")),
        started_at=_moment_or_none(row.get("started_at")),
        ended_at=moment(_need(row, "ended_at")),
        retry_at=_moment_or_none(row.get("retry_at")),
        replayed_at=_moment_or_none(row.get("replayed_at")),
        attempts=int(_need(row, "attempts")),
        deliveries=int(_need(row, "deliveries")),
        generation=int(_need(row, "generation")),
        is_late=row.get("late") == "t",
        worker=row.get("worker") or "",
        result=row.get("result"),
        reason=row.get("reason"),
        error_kind=row.get("error_kind"),
    )


def lease_of(text: str) -> tuple[str, str]:
    """Return the job and the batch of a lease id: ordinal, job, batch and secret, in hexadecimal."""
    _, job, batch, _ = text.split(".")
    return f"{job[:8]}-{job[8:12]}-{job[12:16]}-{job[16:20]}-{job[20:]}", str(int(batch, 16))


def moment(text: str) -> float:
    """Read a timestamptz as PostgreSQL prints it (ISO)."""
    return datetime.fromisoformat(text).timestamp()


def _moment_or_none(text: str | None) -> float | None:
    return None if text is None else moment(text)


def _need(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        raise KeyError(
            f"{column} is missing in {row}: the tables have changed, and tests/faults/judging/tables.py has not"
        )
    return value


def _integers(text: str) -> list[int]:
    return [int(part) for part in text[1:-1].split(",")]
