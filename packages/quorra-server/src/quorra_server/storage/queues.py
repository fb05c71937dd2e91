"""Queues: their counts, their settings, and which of them have work."""

from collections.abc import Sequence
from dataclasses import dataclass

from quorra_server.domain.retry import Backoff
from quorra_server.domain.states import JobStatus
from quorra_server.storage.database import Executor, column
from quorra_server.storage.jobs import backoff_from_json, backoff_json
from quorra_server.storage.statements import statement

COUNT_QUEUES = statement("count_queues")
FOLD_COUNTS = statement("fold_counts")
DESCRIBE_QUEUE = statement("describe_queue")
SET_QUEUE = statement("set_queue")
FIND_DUE_QUEUES = statement("find_due_queues")
OLDEST_WAITING = statement("oldest_waiting")


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What is known of a queue beyond its counts.

    Attributes:
        oldest_waiting_seconds: How long its oldest due job has waited; None if none is due.
    """

    oldest_waiting_seconds: float | None
    backoff: Backoff | None


async def count_queues(executor: Executor) -> dict[str, dict[JobStatus, int]]:
    """Count jobs by queue and status, zeros included."""
    rows = await executor.fetch(COUNT_QUEUES)
    return {row["queue"]: {status: row[status.value] for status in JobStatus} for row in rows}


@dataclass(frozen=True, slots=True)
class Folded:
    """What was folded of one queue, and what the functions for SQL did in it, which no server saw.

    Attributes:
        deltas: Rows that became one.
        created: Jobs enqueued.
        processed: Runs completed or failed.
        failed: Runs failed, dead ones included.
    """

    queue: str
    deltas: int
    created: int
    processed: int
    failed: int
    dead: int


async def fold_counts(executor: Executor, *, limit: int) -> list[Folded]:
    """Fold at most `limit` count deltas into the summary; return what they were, by queue."""
    return [_folded(**dict(row.items())) for row in await executor.fetch(FOLD_COUNTS, limit)]


def _folded(queue: str, deltas: int, waiting: int, held: int, succeeded: int, dead: int) -> Folded:
    # A run that ended was held; if its job waits again, that is one that waits and was not created.
    processed = -held
    failed = processed - succeeded
    return Folded(queue, deltas, created=waiting - (failed - dead), processed=processed, failed=failed, dead=dead)


async def describe_queue(executor: Executor, queue: str) -> QueueFigures:
    """Read the figures of one queue."""
    row = (await executor.fetch(DESCRIBE_QUEUE, queue))[0]
    return QueueFigures(await oldest_waiting(executor, [queue]), backoff_from_json(row["backoff"]))


async def set_queue(executor: Executor, queue: str, backoff: Backoff | None) -> None:
    """Set the back-off for jobs that bring none of their own; None means the default."""
    await executor.fetch(SET_QUEUE, queue, backoff_json(backoff))


async def find_due_queues(executor: Executor, queues: Sequence[str]) -> list[str]:
    """Return those of some queues that have a job that is due."""
    return column(await executor.fetch(FIND_DUE_QUEUES, queues), "name")


async def oldest_waiting(executor: Executor, queues: Sequence[str]) -> float | None:
    """Return for how many seconds the oldest due job of some queues has waited; None if none is due."""
    seconds: float | None = (await executor.fetch(OLDEST_WAITING, queues))[0]["seconds"]
    return seconds
