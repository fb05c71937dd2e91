"""A fresh database, its upkeep, and what PostgreSQL says of itself: all SQL of the benchmarks but the bare queue's."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
from quorra_server.storage.migrate import migrate

from benchmarks.bare.rows import BareRows
from benchmarks.load import payload

NAME = "quorra_bench"
BACKEND_PID = "SELECT pg_backend_pid()"
# How much has ever been written.
WAL_BYTES = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
# The settings that decide what a figure means.
SETTINGS_SHOWN = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
    "autovacuum",
)


def make_fresh(admin_dsn: str) -> str:
    """Make an empty database with the shipped schema, in place of the last one, and return its DSN."""
    return asyncio.run(_make_fresh(admin_dsn))


async def _make_fresh(admin_dsn: str) -> str:
    connection = await asyncpg.connect(admin_dsn)
    await connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {NAME}")
    await connection.execute("CHECKPOINT")
    await connection.close()
    dsn = urlunsplit(urlsplit(admin_dsn)._replace(path=f"/{NAME}"))
    await migrate(dsn)
    return dsn


def fill_bare(dsn: str, count: int) -> None:
    """Make the tables of the bare queue, and let so many jobs wait in them."""
    asyncio.run(_fill_bare(dsn, count))
    tidy(dsn)


async def _fill_bare(dsn: str, count: int) -> None:
    rows = await BareRows.open(dsn)
    await rows.make_tables()
    await rows.fill(count, json.dumps(payload(0)))
    await rows.close()


def tidy(dsn: str) -> None:
    """Do what autovacuum and the checkpointer do within minutes, so that no measurement pays for the one before."""
    asyncio.run(_tidy(dsn))


async def _tidy(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await tidy_up(connection)
    await connection.close()


async def tidy_up(connection: asyncpg.Connection) -> None:
    """Do the same over a connection that is open."""
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")


def wal_bytes(dsn: str) -> int:
    """Return how much WAL has ever been written."""
    return int(asyncio.run(_value(dsn, WAL_BYTES)))


def settings(dsn: str) -> dict[str, str]:
    """Return the settings that decide what a figure means."""
    return {name: str(asyncio.run(_value(dsn, f"SHOW {name}"))) for name in SETTINGS_SHOWN}


def find_postmaster(dsn: str) -> psutil.Process | None:
    """Return PostgreSQL's first process; None when it runs on another machine."""
    return asyncio.run(_find_postmaster(dsn))


async def _find_postmaster(dsn: str) -> psutil.Process | None:
    connection = await asyncpg.connect(dsn)
    try:
        backend = psutil.Process(await connection.fetchval(BACKEND_PID))
        return backend.parent() if "postgres" in backend.name() else None
    except psutil.NoSuchProcess:
        return None
    finally:
        await connection.close()


async def _value(dsn: str, query: str) -> Any:
    connection = await asyncpg.connect(dsn)
    value = await connection.fetchval(query)
    await connection.close()
    return value


@contextlib.contextmanager
def open_snapshot(dsn: str) -> Iterator[None]:
    """Hold a transaction open that sees the database as it is now, like a long report or a dump."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn))
        runner.run(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class"))
        try:
            yield
        finally:
            runner.run(connection.close())
