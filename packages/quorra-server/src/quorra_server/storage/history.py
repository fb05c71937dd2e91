"""What is kept of a job's past: its attempts, and what its handlers said while they ran."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from quorra_server.domain.job import Attempt
from quorra_server.domain.states import OutcomeKind
from quorra_server.storage.database import Executor
from quorra_server.storage.statements import statement

LIST_HISTORY = statement("list_history")
NOTE_PROGRESS = statement("note_progress")
FIND_NOTES = statement("find_notes")
APPEND_LOGS = statement("append_logs")
LIST_LOGS = statement("list_logs")


@dataclass(frozen=True, slots=True)
class Note:
    """What a handler said of its run; None leaves what was said before."""

    job_id: UUID
    checkpoint: str | None = None
    progress_done: int | None = None
    progress_total: int | None = None
    progress_note: str | None = None


class LogLine(NamedTuple):
    """A line that a handler logged; `position` numbers the lines of one attempt from 1."""

    job_id: UUID
    batch: int
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


async def list_history(executor: Executor, job_id: UUID) -> list[Attempt]:
    """Read each lease of a job and how it ended, oldest first."""
    rows = await executor.fetch(LIST_HISTORY, job_id)
    return [Attempt(**{**dict(row.items()), "kind": OutcomeKind(row["kind"])}) for row in rows]


async def note_progress(executor: Executor, notes: Sequence[Note]) -> None:
    """Keep progress and checkpoints; at most one note for each job."""
    await executor.fetch(
        NOTE_PROGRESS,
        [note.job_id for note in notes],
        [note.checkpoint for note in notes],
        [note.progress_done for note in notes],
        [note.progress_total for note in notes],
        [note.progress_note for note in notes],
    )


async def find_notes(executor: Executor, job_ids: Sequence[UUID]) -> dict[UUID, Note]:
    """Read what handlers said of jobs."""
    return {row["job_id"]: Note(*row) for row in await executor.fetch(FIND_NOTES, job_ids)}


async def append_logs(executor: Executor, lines: Sequence[LogLine]) -> None:
    """Append log lines; repeating is harmless."""
    await executor.fetch(APPEND_LOGS, *(list(values) for values in zip(*lines, strict=True)))


async def list_logs(executor: Executor, job_id: UUID, *, limit: int) -> list[KeptLogLine]:
    """Read the first `limit` log lines of a job."""
    return [KeptLogLine(*row) for row in await executor.fetch(LIST_LOGS, job_id, limit)]
