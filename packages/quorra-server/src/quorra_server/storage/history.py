"""What is kept of a job's past: its attempts, and what its handlers said while they ran."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from quorra_server.domain.job import Attempt, LeaseId
from quorra_server.domain.states import OutcomeKind
from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

LIST_HISTORY = statement("list_history")
NOTE_PROGRESS = statement("note_progress")
FIND_NOTES = statement("find_notes")
APPEND_LOGS = statement("append_logs")
LIST_LOGS = statement("list_logs")

# A job that is snoozed each second has 86,400 entries a day.
ENTRIES_DEFAULT = 200
# What a gRPC client takes is 4 MiB: this many errors of full size (16 KiB by default), with the largest payload.
ERRORS_MAX = 100
# Above every batch.
NO_BATCH = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Note:
    """What a handler said of its job; None leaves what was said before."""

    checkpoint: str | None = None
    progress_done: int | None = None
    progress_total: int | None = None
    progress_note: str | None = None


class LogLine(NamedTuple):
    """A line that a handler logged; `position` numbers the lines of one attempt from 1."""

    lease: LeaseId
    position: int
    ago_ms: int
    level: str
    message: str


class KeptLogLine(NamedTuple):
    """A log line as it is read back."""

    batch: int
    position: int
    logged_at: datetime
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class KeptAttempt(Attempt):
    """An entry of a job's history as it is read back; a job has one for each `batch`, and later ones are higher."""

    batch: int


async def list_history(
    executor: Executor, job_id: UUID, *, limit: int = ENTRIES_DEFAULT, before_batch: int = NO_BATCH
) -> list[KeptAttempt]:
    """Read the last `limit` leases of a job that ended, of those before a batch, and how; oldest first."""
    return await _list(executor, job_id, before_batch, limit, errors_only=False)


async def list_errors(executor: Executor, job_id: UUID) -> list[KeptAttempt]:
    """Read the last `ERRORS_MAX` leases of a job that ended in an error, oldest first."""
    return await _list(executor, job_id, NO_BATCH, ERRORS_MAX, errors_only=True)


async def _list(
    executor: Executor, job_id: UUID, before_batch: int, limit: int, *, errors_only: bool
) -> list[KeptAttempt]:
    rows = await executor.fetch(LIST_HISTORY, job_id, before_batch, limit, errors_only)
    return [KeptAttempt(**{**dict(row.items()), "kind": OutcomeKind(row["kind"])}) for row in rows]


async def note_progress(executor: Executor, principal: str, notes: Mapping[LeaseId, Note]) -> None:
    """Keep progress and checkpoints, at most one note for each job; leases that are over are passed by."""
    await executor.fetch(
        NOTE_PROGRESS,
        principal,
        *_lease_columns(notes),
        [note.checkpoint for note in notes.values()],
        [note.progress_done for note in notes.values()],
        [note.progress_total for note in notes.values()],
        [note.progress_note for note in notes.values()],
    )


def _lease_columns(leases: Iterable[LeaseId]) -> tuple[list[int], list[UUID], list[int], list[UUID]]:
    held = list(leases)
    return (
        [lease.batch for lease in held],
        [lease.secret for lease in held],
        [lease.ordinal for lease in held],
        [lease.job_id for lease in held],
    )


async def find_notes(executor: Executor, job_ids: Sequence[UUID]) -> dict[UUID, Note]:
    """Read what handlers said of jobs."""
    return {row["job_id"]: Note(*tuple(row)[1:]) for row in await executor.fetch(FIND_NOTES, job_ids)}


async def append_logs(executor: Executor, principal: str, lines: Sequence[LogLine]) -> None:
    """Append log lines; repeating is harmless, and lines of leases that are over are passed by."""
    await executor.fetch(
        APPEND_LOGS,
        principal,
        *_lease_columns(line.lease for line in lines),
        [line.position for line in lines],
        [line.ago_ms for line in lines],
        [line.level for line in lines],
        [line.message for line in lines],
    )


async def list_logs(executor: Executor, job_id: UUID, *, limit: int) -> list[KeptLogLine]:
    """Read the last `limit` log lines of a job, oldest first."""
    return [KeptLogLine(*row) for row in await executor.fetch(LIST_LOGS, job_id, limit)][::-1]
