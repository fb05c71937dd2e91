"""Connections: what a caller hears when they break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from quorra_server.domain.errors import OutcomeUnknown
from quorra_server.storage.database import Pool, PoolSettings, translate

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


async def test_giving_a_connection_back_costs_no_statement(database_url: str) -> None:
    """The driver would reset the session after each statement, a round trip; nothing here changes a session."""
    async with _proxied(database_url) as (_, pool):
        await pool.fetch("SELECT 7 AS seven")

        last = await _last_statements(database_url)

    assert ["SELECT 7 AS seven"] == last


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


async def _sleep_in_a_transaction(pool: Pool) -> None:
    async with pool.transaction() as transaction:
        await transaction.fetch("SELECT pg_sleep(30)")


async def _last_statements(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return [row["query"] for row in rows]
    finally:
        await connection.close()


async def _is_asleep(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        found: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')"
        )
        return found
    finally:
        await connection.close()
