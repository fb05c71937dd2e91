"""Failovers: the lives of the database, and what was lost between two of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from quorra_server.storage.database import Executor
from quorra_server.storage.primary import Life
from quorra_server.storage.statements import statement

BEAT_LIFE = statement("beat_life")
FIND_LOSSES = statement("find_losses")
RECORD_FAILOVER = statement("record_failover")
LIST_FAILOVERS = statement("list_failovers")


class Beat(NamedTuple):
    """What is known when a life is said to go on.

    Attributes:
        is_first: Nobody said so before.
        earlier_beat_at: The last word of an earlier life; None if there was none.
    """

    is_first: bool
    earlier_beat_at: datetime | None


class Losses(NamedTuple):
    """What was acknowledged and is not there: jobs by id, and the jobs whose outcomes are missing."""

    jobs: list[UUID]
    outcomes: list[UUID]


class Failover(NamedTuple):
    """What one server found after a failover.

    Attributes:
        timeline: What the promotion began.
        lost_from: Whatever was acknowledged after it and until `lost_until` may be lost; None if nobody can say.
        jobs: Submissions that this server had acknowledged and that are not there.
        outcomes: Reports that it had accepted and that are not there; their jobs run again.
        job_ids: The first of those jobs.
    """

    system_identifier: int
    timeline: int
    node: str
    noticed_at: datetime
    lost_from: datetime | None
    lost_until: datetime | None
    jobs: int
    outcomes: int
    job_ids: Sequence[UUID]


async def beat_life(executor: Executor, life: Life) -> Beat:
    """Say that a life goes on; written down about once a second, however many servers say it."""
    rows = await executor.fetch(BEAT_LIFE, *life)
    return Beat(*rows[0]) if rows else Beat(False, None)


async def find_losses(executor: Executor, jobs: Sequence[UUID], outcomes: Sequence[tuple[str, int]]) -> Losses:
    """Find what is missing of what was acknowledged; outcomes are (job, batch)."""
    rows = await executor.fetch(FIND_LOSSES, jobs, [job for job, _ in outcomes], [batch for _, batch in outcomes])
    by_kind: dict[str, list[UUID]] = {"job": [], "outcome": []}
    for kind, job_id in rows:
        by_kind[kind].append(job_id)
    return Losses(by_kind["job"], by_kind["outcome"])


async def record_failover(
    executor: Executor,
    life: Life,
    node: str,
    losses: Losses,
    *,
    earlier_beat_at: datetime | None,
    seconds_ago: float,
    ids_max: int,
) -> tuple[datetime | None, datetime | None]:
    """Write down what a server found, and return from when until when acknowledged changes may be lost.

    Args:
        seconds_ago: Since the server turned to this life; it acknowledged nothing of the earlier one since.
        ids_max: How many ids to keep.
    """
    ids = [*losses.jobs, *losses.outcomes][:ids_max]
    lost_from, lost_until = (
        await executor.fetch(
            RECORD_FAILOVER,
            *life,
            node,
            earlier_beat_at,
            seconds_ago,
            len(losses.jobs),
            len(losses.outcomes),
            ids,
        )
    )[0]
    return lost_from, lost_until


async def list_failovers(executor: Executor, limit: int) -> list[Failover]:
    """List what servers found after failovers, the newest first."""
    return [Failover(*row) for row in await executor.fetch(LIST_FAILOVERS, limit)]
