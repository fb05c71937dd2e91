"""Retention: partitions are made ahead of time and dropped whole; what must stay is moved first."""

from datetime import date, timedelta

from quorra_server.storage.database import Executor, Pool
from quorra_server.storage.statements import statement

MAKE_PARTITIONS = statement("make_partitions")
LIST_OLD_PARTITIONS = statement("list_old_partitions")
PRUNE_LOG_LINES = statement("prune_log_lines")
PRUNE_NOTES = statement("prune_notes")
FORGET_ENDED = statement("forget_ended")
DROP_PARTITION = statement("drop_partition")
PRUNE_DEFAULT = statement("prune_default")

# What handlers said is removed so many rows at a time: each statement is short, however much a day has.
PAGE_ROWS = 1_000
# How long a day is looked through while everybody goes on. That depends on how many jobs it had, and under a bound that
# is too short a busy day would stay for ever.
LOOK_SECONDS_MAX = 3_600.0
# How long everybody waits at most while what stays is moved; after that nothing has happened.
DROP_SECONDS_MAX = 30.0


async def make_partitions(pool: Pool, days: int) -> int:
    """Make the daily partitions that are missing from today on; return how many days were made.

    Raises:
        StorageUnavailable: Nothing was changed; as a rule somebody holds a table. Try again in the next round.
    """
    # Not repeated: while it waits for a lock of a whole table, everybody else waits behind it.
    async with pool.transaction() as transaction:
        made: int = (await transaction.fetch(MAKE_PARTITIONS, days))[0]["made"]
    return made


async def list_old_partitions(pool: Pool, older_than: timedelta) -> list[date]:
    """Name the days whose partitions are past their time, oldest first; none while another server changes them."""
    return [row["day"] for row in await pool.fetch(LIST_OLD_PARTITIONS, older_than)]


async def drop_partition(pool: Pool, day: date, succeeded_for: timedelta) -> bool:
    """Drop the partitions of a day in one transaction and say whether it was done here, not by another server.

    Jobs that live, are dead, or succeeded or were cancelled less than `succeeded_for` ago are moved to the default
    partition first. What handlers said in the others is removed before, page by page.

    Raises:
        StorageUnavailable: The day is left; as a rule somebody holds a table. Try again in the next round.
    """
    await _forget_said(pool, day, succeeded_for)
    # Not repeated, as in `make_partitions`.
    async with pool.transaction() as transaction:
        looked = await transaction.fetch(FORGET_ENDED, day, succeeded_for, timeout=LOOK_SECONDS_MAX)
        if looked[0]["spared"] is None:
            return False
        await transaction.fetch(DROP_PARTITION, day, looked[0]["spared"], timeout=DROP_SECONDS_MAX)
    return True


async def _forget_said(pool: Pool, day: date, succeeded_for: timedelta) -> None:
    """Remove what handlers said in jobs of a day that are over for good, each page in its own transaction."""
    for sql, columns in ((PRUNE_LOG_LINES, 3), (PRUNE_NOTES, 1)):
        place: tuple[object, ...] = (None,) * columns
        while page_end := await pool.fetch(sql, day, succeeded_for, PAGE_ROWS, *place):
            place = tuple(page_end[0])


async def prune_default(executor: Executor, succeeded_for: timedelta, dead_for: timedelta, *, limit: int) -> int:
    """Remove at most `limit` jobs past their time from the default partition; return how many went."""
    return len(await executor.fetch(PRUNE_DEFAULT, succeeded_for, dead_for, limit))
