"""Faults of PostgreSQL."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from tests.faults.kinds.processes import kill_process
from tests.faults.kinds.registry import kind
from tests.faults.stage import Stage

# Sessions of the servers; behind PgBouncer they have no name.
STATEMENT_SECONDS_MAX = 5.0
QUORRA = "application_name = 'quorra-server' OR application_name <> 'faults' AND query LIKE '%quorra.%'"


@kind("pg.restart_fast", holds_up=True)
async def restart_postgres(stage: Stage, dice: random.Random) -> int:
    """A fast restart."""
    return await _restart_postgres(stage, stage.postgres.stop, dice)


@kind("pg.restart_immediate", holds_up=True)
async def crash_postgres(stage: Stage, dice: random.Random) -> int:
    """An immediate restart: it recovers from its log, as after a power cut."""
    return await _restart_postgres(stage, stage.postgres.crash, dice)


@kind("pg.kill_backend", holds_up=True)
async def kill_backend(stage: Stage, dice: random.Random) -> int:
    """SIGKILL one backend: PostgreSQL ends all others and recovers."""
    async with _direct(stage) as connection:
        pids = [row["pid"] for row in await connection.fetch(f"SELECT pid FROM pg_stat_activity WHERE {QUORRA}")]
    if not pids:
        return 0
    os.kill(dice.choice(pids), signal.SIGKILL)
    stage.note_restart("postgres")
    await asyncio.sleep(0.1)
    await stage.postgres_answers(time.time())
    return 1


@kind("pg.terminate_storm", holds_up=True)
async def terminate_backends(stage: Stage, _: random.Random) -> int:
    """pg_terminate_backend of every connection, again and again."""
    return await _storm(stage, "pg_terminate_backend")


@kind("pg.cancel_storm", holds_up=True)
async def cancel_statements(stage: Stage, _: random.Random) -> int:
    """pg_cancel_backend of every statement, again and again."""
    return await _storm(stage, "pg_cancel_backend")


@kind("pg.read_only", holds_up=True)
async def make_postgres_read_only(stage: Stage, dice: random.Random) -> int:
    """default_transaction_read_only, as on a primary that became a standby."""
    before = _count_in_log(stage, "read-only transaction")
    async with _direct(stage) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(dice.uniform(1.0, 2.5))
            hits = _count_in_log(stage, "read-only transaction") - before
        finally:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")
    return hits


@kind("pg.long_snapshot")
async def hold_a_snapshot(stage: Stage, dice: random.Random) -> int:
    """A transaction that is open elsewhere: nothing that dies meanwhile can be cleaned up."""
    async with _direct(stage) as connection, connection.transaction(isolation="repeatable_read"):
        before = await connection.fetchval("SELECT count(*) FROM quorra.ready")
        await asyncio.sleep(dice.uniform(5.0, 8.0))
        return int(before == await connection.fetchval("SELECT count(*) FROM quorra.ready"))


@kind("pg.lock_ready", holds_up=True)
async def lock_the_line(stage: Stage, dice: random.Random) -> int:
    """Nobody can submit, lease or retry for a while."""
    return await _lock_table(stage, "quorra.ready", dice)


@kind("pg.lock_outcomes", holds_up=True)
async def lock_the_outcomes(stage: Stage, dice: random.Random) -> int:
    """Nobody can settle for a while."""
    return await _lock_table(stage, "quorra.outcomes", dice)


@kind("pg.lock_leases", holds_up=True)
async def lock_the_leases(stage: Stage, dice: random.Random) -> int:
    """Nobody can lease, renew or settle for a while."""
    return await _lock_table(stage, "quorra.leases", dice)


@kind("pg.exhaust", holds_up=True)
async def exhaust_connections(stage: Stage, dice: random.Random) -> int:
    """Take every connection there is, and end those of the servers."""
    taken: list[asyncpg.Connection] = []
    hits = 0
    try:
        async with _direct(stage) as connection:
            await connection.fetch(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {QUORRA}")
            for _ in range(150):
                try:
                    taken.append(
                        await asyncpg.connect(
                            stage.postgres.url, timeout=2, server_settings={"application_name": "faults"}
                        )
                    )
                except (asyncpg.PostgresError, OSError, TimeoutError):
                    hits += 1
                    break
            await asyncio.sleep(dice.uniform(1.0, 2.0))
    finally:
        for taken_connection in taken:
            taken_connection.terminate()
    return hits


@kind("pg.slow_commit", holds_up=True)
async def slow_commits_down(stage: Stage, dice: random.Random) -> int:
    """Every commit waits a tenth of a second."""
    async with _direct(stage) as connection:
        for setting in ("commit_delay = 100000", "commit_siblings = 0"):
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(dice.uniform(1.5, 3.0))
            return int(await connection.fetchval("SHOW commit_delay") == "100000")
        finally:
            await connection.execute("ALTER SYSTEM RESET commit_delay")
            await connection.execute("ALTER SYSTEM RESET commit_siblings")
            await connection.execute("SELECT pg_reload_conf()")


@kind("pg.stop", holds_up=True)
async def pause_backends(stage: Stage, dice: random.Random) -> int:
    """SIGSTOP some backends in whatever they do, with all their locks."""
    async with _direct(stage) as connection:
        rows = await connection.fetch(f"SELECT pid FROM pg_stat_activity WHERE ({QUORRA}) AND state <> 'idle'")
    pids = [row["pid"] for row in rows][:3]
    for pid in pids:
        kill_process(pid, signal.SIGSTOP)
    await asyncio.sleep(dice.uniform(1.0, 2.5))
    for pid in pids:
        kill_process(pid, signal.SIGCONT)
    return len(pids)


@kind("pg.disk_full", holds_up=True)
async def fill_the_disk(stage: Stage, dice: random.Random) -> int:
    """No space is left for PostgreSQL; it may stop, and is started again once there is space."""
    filler = stage.postgres.filler_path
    async with stage.postgres.restarting:
        before = _count_in_log(stage, "No space left on device")
        try:
            await asyncio.to_thread(_fill, filler)
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                async with _direct(stage) as connection:
                    await connection.execute("SELECT pg_switch_wal()", timeout=STATEMENT_SECONDS_MAX)
                    await connection.execute("CHECKPOINT", timeout=STATEMENT_SECONDS_MAX)
            await asyncio.sleep(dice.uniform(1.0, 2.0))
        finally:
            filler.unlink(missing_ok=True)
        hits = _count_in_log(stage, "No space left on device") - before
        if not stage.postgres.is_alive():
            stage.postgres.stop()
            await asyncio.to_thread(stage.postgres.start)
            stage.note_restart("postgres")
        await stage.postgres_answers(time.time())
    return max(hits, 0)


@asynccontextmanager
async def _direct(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stage.postgres.url, timeout=5, server_settings={"application_name": "faults"})
    try:
        yield connection
    finally:
        connection.terminate()


async def _restart_postgres(stage: Stage, stop: Callable[[], None], dice: random.Random) -> int:
    async with stage.postgres.restarting:
        await asyncio.to_thread(stop)
        await asyncio.sleep(dice.uniform(0.0, 2.0))
        began = time.time()
        await asyncio.to_thread(stage.postgres.start)
        stage.note_restart("postgres")
        await stage.postgres_answers(began)
    return 1


async def _storm(stage: Stage, function: str) -> int:
    hits = 0
    async with _direct(stage) as connection:
        for _ in range(20):
            rows = await connection.fetch(
                f"SELECT {function}(pid) AS done FROM pg_stat_activity WHERE ({QUORRA}) AND state <> 'idle'"
            )
            hits += sum(row["done"] for row in rows)
            await asyncio.sleep(0.1)
    return hits


async def _lock_table(stage: Stage, table: str, dice: random.Random) -> int:
    async with _direct(stage) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(dice.uniform(0.8, 2.0))
        waiting = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass", table
        )
    return int(waiting)


def _count_in_log(stage: Stage, text: str) -> int:
    return stage.postgres.log_path.read_text(errors="replace").count(text)


def _fill(path: Path) -> None:
    """Take all space that is left."""
    size = shutil.disk_usage(path.parent).free
    with path.open("wb") as file:
        while size >= 4096:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2
