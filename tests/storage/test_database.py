"""Connections: what a caller hears when they break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from quorra_server.domain.errors import OutcomeUnknown
from quorra_server.storage.database import Pool, PoolSettings, column, translate

from tests.support.proxy import Proxy
from tests.support.waiting import eventually


async def test_a_cancellation_stays_one_although_rolling_back_fails(database_url: str) -> None:
    """A loop that is told to stop would take another error for a bad round, and go on."""
    async with _proxied(database_url) as (proxy, pool):
        task = asyncio.create_task(_sleep_in_a_transaction(pool))
        await eventually(lambda: _is_asleep(database_url), "the statement runs")

        proxy.swallow_to_target = True
        task.cancel()
        await asyncio.sleep(0)
        proxy.cut()

        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_connection_that_breaks_while_it_is_given_back_does_not_spoil_the_result(database_url: str) -> None:
    async with _proxied(database_url) as (proxy, pool):
        task = asyncio.create_task(pool.fetch("SELECT pg_sleep(0.2), 7 AS seven"))
        await eventually(lambda: _is_asleep(database_url), "the statement runs")

        proxy.swallow_to_target = True
        await eventually(lambda: _true(proxy.disturbed > 0), "the connection is being reset")
        proxy.cut()

        assert [7] == column(await task, "seven")


def test_a_driver_that_lost_track_of_a_connection_leaves_the_outcome_unknown() -> None:
    assert isinstance(translate(asyncpg.InternalClientError("cannot switch to state 12")), OutcomeUnknown)


@asynccontextmanager
async def _proxied(database_url: str) -> AsyncIterator[tuple[Proxy, Pool]]:
    parts = urlsplit(database_url)
    async with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        netloc = f"{parts.username}:{parts.password}@{proxy.address}"
        pool = Pool(PoolSettings(urlunsplit(parts._replace(netloc=netloc)), 1, acquire_seconds=5, statement_seconds=20))
        await pool.open()
        try:
            yield proxy, pool
        finally:
            await pool.close()


async def _true(claim: bool) -> bool:
    return claim


async def _sleep_in_a_transaction(pool: Pool) -> None:
    async with pool.transaction() as transaction:
        await transaction.fetch("SELECT pg_sleep(30)")


async def _is_asleep(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        found: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')"
        )
        return found
    finally:
        await connection.close()
