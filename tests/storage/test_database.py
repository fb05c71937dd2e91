"""Connections: what a caller hears when they break."""

import asyncio
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from quorra_server.storage.database import Pool, PoolSettings

from tests.support.proxy import Proxy
from tests.support.waiting import eventually


async def test_a_cancellation_stays_one_although_rolling_back_fails(database_url: str) -> None:
    """A loop that is told to stop would take another error for a bad round, and go on."""
    parts = urlsplit(database_url)
    async with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        netloc = f"{parts.username}:{parts.password}@{proxy.address}"
        pool = Pool(PoolSettings(urlunsplit(parts._replace(netloc=netloc)), 1, acquire_seconds=5, statement_seconds=20))
        await pool.open()
        task = asyncio.create_task(_sleep_in_a_transaction(pool))
        await eventually(lambda: _is_asleep(database_url), "the statement runs")

        proxy.swallow_to_target = True
        task.cancel()
        await asyncio.sleep(0)
        proxy.cut()

        with pytest.raises(asyncio.CancelledError):
            await task
        await pool.close()


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
