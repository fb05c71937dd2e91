"""The statements of a job's life, each by itself on one connection: what they cost PostgreSQL, the driver and the log.

Beside each of Quorra's stands the one of the bare queue.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psutil
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.job import LeaseBatch, NewJob
from quorra_server.storage import jobs, leases
from quorra_server.storage.leases import HEAD, Cursor

from benchmarks import database
from benchmarks.bare.rows import BareRows
from benchmarks.generators.statements import lease, open_pool, settle, successes
from benchmarks.generators.stopwatch import Stopwatch
from benchmarks.load import QUEUE, Target, payload
from benchmarks.usage import tree_seconds

# As many as share a statement when 64 connections send single jobs.
GROUP = 20
TEXT = json.dumps(payload(0))


async def run(*, count: int, batch: int, **target: Any) -> dict[str, Any]:
    """Return what a job costs in each statement, by the statement's name; those of the bare queue are floors."""
    to = Target(**target)
    connection = await asyncpg.connect(to.database_url)
    stopwatch = Stopwatch()
    quorra, bare = _Meter(connection), _Meter(connection)
    await _measure_quorra(quorra, to, count, batch)
    await _measure_bare(bare, to, count, batch)
    await connection.close()
    return stopwatch.reply(count, costs=quorra.costs, floors=bare.costs)


class _Meter:
    """Measures what statements cost, from a connection of its own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.costs: dict[str, dict[str, float]] = {}
        self._connection = connection

    async def tidy(self) -> None:
        await database.tidy_up(self._connection)

    @contextlib.asynccontextmanager
    async def measure(self, name: str, backend_pid: int, count: int) -> AsyncIterator[None]:
        """Measure what is done within, for a job: of PostgreSQL, only the process that serves this connection.

        What is left of the time when nobody works is waiting: for the log's flush, and for processes to wake up.
        """
        backend = psutil.Process(backend_pid)
        wal, postgresql = await self._wal(), tree_seconds(backend)
        driver, began = time.process_time(), time.perf_counter()
        yield
        passed, driver = time.perf_counter() - began, time.process_time() - driver
        postgresql = tree_seconds(backend) - postgresql
        self.costs[name] = {
            "driver": driver * 1_000_000 / count,
            "PostgreSQL": postgresql * 1_000_000 / count,
            "waiting": max(0.0, passed - driver - postgresql) * 1_000_000 / count,
            "WAL": (await self._wal() - wal) / count,
        }

    async def _wal(self) -> int:
        return int(await self._connection.fetchval(database.WAL_BYTES))


async def _measure_quorra(meter: _Meter, to: Target, count: int, batch: int) -> None:
    pool = await open_pool(to, connections=1)
    backend = (await pool.fetch(database.BACKEND_PID))[0][0]
    for size in (GROUP, batch):
        groups = [_new_jobs(size) for _ in range(0, count, size)]
        async with meter.measure(f"submit, {size:,} at a time", backend, count):
            for group in groups:
                await jobs.submit_jobs(pool, group)
    await meter.tidy()
    batches: list[LeaseBatch] = []
    begin = HEAD
    async with meter.measure("lease", backend, count):
        while len(batches) * batch < count:
            leased = await lease(pool, batch, begin)
            assert leased is not None
            begin = Cursor.at(leased.jobs[-1])
            batches.append(leased)
    reports = [successes(leased) for leased in batches]
    async with meter.measure("settle", backend, count):
        for part in reports:
            await settle(pool, part)
    async with meter.measure("close", backend, count):
        for leased in batches:
            await leases.close_batches(pool, [leased.batch])
    await pool.close()


def _new_jobs(count: int) -> list[NewJob]:
    return [NewJob(new_job_id(), "noop", TEXT, queue=QUEUE) for _ in range(count)]


async def _measure_bare(meter: _Meter, to: Target, count: int, batch: int) -> None:
    rows = await BareRows.open(to.database_url)
    await rows.make_tables()
    for size in (GROUP, batch):
        async with meter.measure(f"submit, {size:,} at a time", rows.backend_pid, count):
            for _ in range(0, count, size):
                await rows.post([TEXT] * size)
    await rows.fill(count, TEXT)
    await meter.tidy()
    taken: list[list[tuple[int, str]]] = []
    async with meter.measure("lease", rows.backend_pid, count):
        while len(taken) * batch < count:
            taken.append(await rows.take(batch))
    numbers = [[number for number, _ in part] for part in taken]
    async with meter.measure("settle", rows.backend_pid, count):
        for part in numbers:
            await rows.end(part)
    await rows.close()
