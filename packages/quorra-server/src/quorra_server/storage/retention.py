"""Retention: partitions are made ahead of time and dropped whole; what must stay is moved first."""

from datetime import date, timedelta
from typing import Any

from quorra_server.storage.database import Executor, Pool
from quorra_server.storage.statements import statement

MAKE_PARTITIONS = statement("make_partitions")
LIST_OLD_PARTITIONS = statement("list_old_partitions")
DROP_PARTITION = statement("drop_partition")
PRUNE_DEFAULT = statement("prune_default")


async def make_partitions(pool: Pool, days: int) -> int:
    """Make the daily partitions that are missing from today on; return how many days were made.

    Raises:
        StorageUnavailable: Nothing was changed; as a rule somebody holds a table. Try again in the next round.
    """
    made: int = await _change(pool, MAKE_PARTITIONS, days)
    return made


async def drop_partitions(pool: Pool, older_than: timedelta, dead_for: timedelta) -> list[date]:
    """Drop the partitions of days past retention, each in its own transaction; return the days.

    Live jobs, and dead ones whose longer time is not over, are moved to the default partition first. A day that another
    server drops is left to it.

    Raises:
        StorageUnavailable: Days are left; as a rule somebody holds a table. Try again in the next round.
    """
    days: list[date] = [row[0] for row in await pool.fetch(LIST_OLD_PARTITIONS, older_than)]
    return [day for day in days if await _change(pool, DROP_PARTITION, day, dead_for) is not None]


async def _change(pool: Pool, sql: str, *arguments: object) -> Any:
    """Run a change of partitions and return its answer.

    It is not repeated: while it waits for a lock of a whole table, everybody else waits behind it.
    """
    async with pool.transaction() as transaction:
        return (await transaction.fetch(sql, *arguments))[0][0]


async def prune_default(executor: Executor, succeeded_for: timedelta, dead_for: timedelta, *, limit: int) -> int:
    """Remove at most `limit` jobs past their time from the default partition; return how many went."""
    return len(await executor.fetch(PRUNE_DEFAULT, succeeded_for, dead_for, limit))
