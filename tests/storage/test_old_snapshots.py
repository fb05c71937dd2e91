"""Old snapshots: how long somebody has kept deleted rows from being removed, whoever it is and whoever asks."""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
from quorra_server.domain.errors import StorageUnavailable
from quorra_server.observability.metrics import Metrics
from quorra_server.services.loops.watch_snapshots import INTERVAL_SECONDS, WatchSnapshots
from quorra_server.storage import statistics
from quorra_server.storage.database import Pool, PoolSettings

from tests.support.processes import RunningServer
from tests.support.queue_spec import QueueSpec
from tests.support.waiting import eventually, eventually_sync

GAUGE = re.compile(r"^quorra_oldest_snapshot_seconds (\S+)$", re.MULTILINE)
NARROW = "sees_nothing"
SLOW_VACUUM = "SET vacuum_cost_limit = 1; SET vacuum_cost_delay = 100;"


class Watch:
    """The gauge of a server, looked at when a test says so, with a clock that it moves."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.now = pool, 1_000.0
        self._metrics = Metrics("0", "test")
        self._watching = WatchSnapshots(pool, self._metrics, lambda: self.now)

    async def after(self, seconds: float) -> float:
        """Let time pass and jobs come, look, and return the gauge."""
        self.now += seconds
        await self.pool.fetch("SELECT pg_current_xact_id()")
        await self._watching.run_once()
        return _gauge(self._metrics.text().decode())


def _gauge(text: str) -> float:
    found = GAUGE.search(text)
    assert found is not None
    return float(found[1])


@pytest.fixture
async def watch(queue: QueueSpec) -> Watch:
    return Watch(queue.pool)


@contextlib.asynccontextmanager
async def _narrow_pool(database_url: str) -> AsyncIterator[Pool]:
    """Connect as somebody with no rights at all."""
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE ROLE {NARROW} LOGIN PASSWORD '{NARROW}'")
    parts = urlsplit(database_url)
    address = urlunsplit(parts._replace(netloc=f"{NARROW}:{NARROW}@{parts.netloc.rpartition('@')[2]}"))
    pool = Pool(PoolSettings(address, 1, acquire_seconds=5, statement_seconds=20))
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()
        await admin.execute(f"DROP ROLE {NARROW}")
        await admin.close()


@contextlib.asynccontextmanager
async def _snapshot(database_url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute("SELECT FROM quorra.ready")
            yield
    finally:
        await connection.close()


async def test_the_age_grows_while_a_snapshot_is_held_and_falls_when_it_is_not(watch: Watch, database_url: str) -> None:
    async with _snapshot(database_url):
        ages = [await watch.after(seconds) for seconds in (0, 15, 900)]
    after = await watch.after(15)

    assert [0.0, 15.0, 915.0] == ages
    assert 0.0 == after


async def test_a_snapshot_that_follows_an_old_one_is_young(watch: Watch, database_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with _snapshot(database_url):
            await watch.after(900)
            await stack.enter_async_context(_snapshot(database_url))
            old = await watch.after(900)
        young = await watch.after(15)

    assert (900.0, 0.0) == (old, young)


async def test_an_open_transaction_that_wrote_something_counts_although_it_rests(
    watch: Watch, database_url: str
) -> None:
    writer = await asyncpg.connect(database_url)
    async with writer.transaction():
        await writer.execute("SELECT pg_current_xact_id()")
        ages = [await watch.after(seconds) for seconds in (0, 900)]
    await writer.close()

    assert [0.0, 900.0] == ages


async def test_a_role_without_any_right_sees_the_same(watch: Watch, database_url: str) -> None:
    async with _snapshot(database_url), _narrow_pool(database_url) as pool:
        seen = await statistics.find_oldest_snapshot(pool)
        expected = await statistics.find_oldest_snapshot(watch.pool)

    assert expected is not None
    assert expected == seen


async def test_a_vacuum_however_long_holds_nothing(queue: QueueSpec, database_url: str) -> None:
    await queue.submit(2_000)
    connection = await asyncpg.connect(database_url)
    await connection.execute(SLOW_VACUUM)
    vacuuming = asyncio.create_task(connection.execute("VACUUM quorra.ready"))
    try:
        await eventually(lambda: queue.pool.fetch("SELECT FROM pg_stat_progress_vacuum"), "it runs")

        holder = await statistics.find_oldest_snapshot(queue.pool)
        was_running = await queue.pool.fetch("SELECT FROM pg_stat_progress_vacuum")
    finally:
        connection.terminate()
        await asyncio.gather(vacuuming, return_exceptions=True)

    assert was_running
    assert holder is None


async def test_while_the_database_is_away_nobody_knows_the_age() -> None:
    metrics = Metrics("0", "test")
    pool = Pool(PoolSettings("postgresql://127.0.0.1:1/nowhere", 1, acquire_seconds=1, statement_seconds=1))

    with pytest.raises(StorageUnavailable):
        await WatchSnapshots(pool, metrics).run_once()

    assert math.isnan(_gauge(metrics.text().decode()))


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_server_looks_by_itself(server: RunningServer) -> None:
    def age() -> float:
        return _gauge(httpx.get(f"{server.http_url}/metrics").text)

    async with _snapshot(server.database_url):
        await asyncio.to_thread(eventually_sync, lambda: age() > 1, "it grows", timeout=3 * INTERVAL_SECONDS)
        held = age()
    await asyncio.to_thread(eventually_sync, lambda: age() < held, "it falls", timeout=2 * INTERVAL_SECONDS)
