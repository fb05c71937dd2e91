"""Retention: partitions are made ahead of time and dropped whole; what must stay is moved first."""

from datetime import date, timedelta

from quorra_server.storage.database import Executor, Pool
from quorra_server.storage.statements import statement

MAKE_PARTITIONS = statement("make_partitions")
LIST_OLD_PARTITIONS = statement("list_old_partitions")
DROP_PARTITION = statement("drop_partition")
PRUNE_DEFAULT = statement("prune_default")


async def make_partitions(executor: Executor, days: int) -> int:
    """Make the daily partitions that are missing from today on; return how many days were made."""
    made: int = (await executor.fetch(MAKE_PARTITIONS, days))[0][0]
    return made


async def drop_partitions(pool: Pool, older_than: timedelta, dead_for: timedelta) -> list[date]:
    """Drop the partitions of days past retention, each in its own transaction; return the days.

    Live jobs, and dead ones whose longer time is not over, are moved to the default partition first.
    """
    days: list[date] = [row[0] for row in await pool.fetch(LIST_OLD_PARTITIONS, older_than)]
    for day in days:
        await pool.fetch(DROP_PARTITION, day, dead_for)
    return days


async def prune_default(executor: Executor, succeeded_for: timedelta, dead_for: timedelta, *, limit: int) -> int:
    """Remove at most `limit` jobs past their time from the default partition; return how many went."""
    return len(await executor.fetch(PRUNE_DEFAULT, succeeded_for, dead_for, limit))
