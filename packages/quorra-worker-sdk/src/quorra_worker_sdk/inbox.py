"""The inbox: effects that happen once, in a database that Quorra does not share.

A row `(job, generation)` is written in the transaction of the effect. Whoever comes second, after a lost lease or a
lost report, finds it and does nothing. A replayed dead job is a new generation, and does its effect anew.
"""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, overload

from quorra_worker_sdk.context import Job
from quorra_worker_sdk.drivers import AsyncConnection, SyncConnection, async_driver_of, sync_driver_of

# For your migrations.
CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS quorra_inbox (
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    entered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, generation)
)
"""
ENTER = """
INSERT INTO quorra_inbox (job_id, generation)
VALUES (CAST(CAST($1 AS text) AS uuid), CAST(CAST($2 AS text) AS integer))
ON CONFLICT DO NOTHING
RETURNING generation
"""
FORGET = """
WITH old AS (
    DELETE FROM quorra_inbox WHERE entered_at < now() - CAST(CAST($1 AS text) AS interval) RETURNING generation
)
SELECT count(*) FROM old
"""


@overload
def enter(connection: SyncConnection, job: Job) -> bool: ...


@overload
def enter(connection: AsyncConnection, job: Job) -> Coroutine[Any, Any, bool]: ...


def enter(connection: Any, job: Job) -> bool | Coroutine[Any, Any, bool]:
    """Enter a job into the inbox, in the transaction that is open on a connection; await it on an asynchronous one.

    Returns True for the first one, which goes on to do the effect in the same transaction, and False if an earlier run
    committed it. Waits for a run that is in the middle of it.

    Raises:
        RuntimeError: No transaction is open, so that row and effect would not be one commit.
    """
    arguments = (job.id, str(job.generation))
    driver = sync_driver_of(connection)
    if driver is None:
        return _enter_async(connection, arguments)
    _require_transaction(driver.will_be_in_transaction(connection))
    return driver.fetch_row(connection, ENTER, arguments) is not None


async def _enter_async(connection: Any, arguments: tuple[str, str]) -> bool:
    driver = async_driver_of(connection)
    _require_transaction(await driver.will_be_in_transaction(connection))
    return await driver.fetch_row(connection, ENTER, arguments) is not None


@overload
def forget(connection: SyncConnection, older_than: timedelta) -> int: ...


@overload
def forget(connection: AsyncConnection, older_than: timedelta) -> Coroutine[Any, Any, int]: ...


def forget(connection: Any, older_than: timedelta) -> int | Coroutine[Any, Any, int]:
    """Remove old rows and return how many went; await it on an asynchronous connection.

    Keep them for longer than a job can live: its retries, and the time after which somebody may still replay it.
    """
    arguments = (f"{older_than.total_seconds()} seconds",)
    driver = sync_driver_of(connection)
    if driver is None:
        return _forget_async(connection, arguments)
    row = driver.fetch_row(connection, FORGET, arguments)
    return int(row[0]) if row else 0


async def _forget_async(connection: Any, arguments: tuple[str]) -> int:
    row = await async_driver_of(connection).fetch_row(connection, FORGET, arguments)
    return int(row[0]) if row else 0


def _require_transaction(will_be_in_one: bool) -> None:
    if not will_be_in_one:
        raise RuntimeError(
            "No transaction is open on the connection: the inbox and the effect have to be one commit. Open one first."
        )
