"""The stage of a benchmark: a durable PostgreSQL of its own (or a given one), servers and workers as real processes."""

import asyncio
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from quorra_server import embedded
from quorra_server.storage.migrate import migrate

BIN = Path(sys.executable).parent
API_KEY = "benchmark-key-of-thirty-two-characters"
DATABASE = "quorra_bench"
READY_SECONDS_MAX = 30.0
# Settings that a production PostgreSQL of this size has; fsync and synchronous_commit stay on.
POSTGRES_SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "300"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    what: str
    value: float
    unit: str


class Stage(contextlib.AbstractContextManager["Stage"]):
    """A fresh database, and processes on it that end with the stage."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.database_url = ""
        self.http_url = ""
        self.grpc_address = ""
        self.folder = Path()

    def __enter__(self) -> "Stage":
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        given = os.environ.get("QUORRA_BENCH_DATABASE_URL")
        if given:
            admin = given
        else:
            postgres = embedded.start(self.folder / "postgres", settings=POSTGRES_SETTINGS)
            admin = self._stack.enter_context(postgres).dsn
        self.database_url = asyncio.run(_fresh_database(admin))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": API_KEY}

    def start_server(self) -> None:
        """Start a server and wait until it is ready."""
        http, grpc = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
        environment = {
            "QUORRA_ENV": "test",
            "DATABASE_URL": self.database_url,
            "QUORRA_API_KEY": API_KEY,
            "QUORRA_HTTP_ADDR": http,
            "QUORRA_GRPC_ADDR": grpc,
            "QUORRA_LOG_LEVEL": "warning",
        }
        self._stack.enter_context(self._process(["quorra-server"], environment))
        self.http_url, self.grpc_address = f"http://{http}", grpc
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.http_url}/readyz").is_success:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"the server is not ready: {(self.folder / 'quorra-server.log').read_text()[-2000:]}")

    def start_worker(self, place: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a worker process."""
        settings = {"QUORRA_GRPC_ADDR": self.grpc_address, "QUORRA_API_KEY": API_KEY, **environment}
        return self._stack.enter_context(self._process(["quorra-worker", place, "--log-level", "warning"], settings))

    @contextlib.contextmanager
    def _process(self, command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [BIN / command[0], *command[1:]],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                cwd=Path(__file__).resolve().parent.parent,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


async def _fresh_database(admin: str) -> str:
    connection = await asyncpg.connect(admin)
    await connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {DATABASE}")
    await connection.execute("CHECKPOINT")
    await connection.close()
    url = urlunsplit(urlsplit(admin)._replace(path=f"/{DATABASE}"))
    await migrate(url)
    return url


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def noise_ms() -> float:
    """Return how long a small loop takes: how much it differs between runs is how noisy the machine is."""
    began = time.perf_counter()
    total = 0
    for number in range(2_000_000):
        total += number
    return (time.perf_counter() - began) * 1000


def machine() -> str:
    """Return what the figures were measured on."""
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}, PostgreSQL {embedded.find_binaries().version}"


def payload(number: int) -> dict[str, object]:
    """Return about 200 bytes of JSON."""
    return {"id": number, "pad": "x" * 180}
