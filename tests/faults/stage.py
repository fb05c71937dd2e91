"""The stage of a fault run: PostgreSQL, Redis, PgBouncer, servers and workers, with a proxy between any two."""

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from quorra_server import embedded
from quorra_server.embedded import EmbeddedPostgres
from quorra_server.storage.migrate import migrate

from tests.faults.history import History
from tests.faults.oracle import Recorder
from tests.faults.plans import QUICK_QUEUE
from tests.support.pooler import COMMAND_VARIABLE
from tests.support.processes import API_KEY, BIN, NO_TLS, clean_environment
from tests.support.proxy import Proxy
from tests.support.services import free_port, redis_binary, wait_until_listening

ROOT = Path(__file__).resolve().parents[2]
POSTGRES_SETTINGS = {
    "wal_level": "logical",
    "max_connections": "120",
    "superuser_reserved_connections": "10",
    "shared_buffers": "'256MB'",
    "max_wal_size": "'512MB'",
    "checkpoint_timeout": "'60s'",
    "wal_sender_timeout": "'10s'",
    "log_min_messages": "warning",
    "log_line_prefix": "'%m '",
}
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
# Room for the log of PostgreSQL and for the jobs of each minute at 600 jobs/s; what is free is filled by a fault.
DISK_BYTES = 1024**3
DISK_BYTES_PER_MINUTE = 64 * 1024**2
# Generous: a machine may be busy with other things.
READY_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 15.0
RESPAWN_SECONDS = 0.3
WORKER_SLOTS = 60


@dataclass(slots=True)
class Slot:
    """A process that is started again whenever it ends, as a service manager would."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log_path: Path
    process: "subprocess.Popen[bytes] | None" = None
    is_wanted: bool = True
    prefix: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                preexec_fn=_die_with_us,
                env={
                    **clean_environment(),
                    "PYTHONPATH": os.pathsep.join(_python_path()),
                    **self.environment,
                    **self.extra,
                },
            )

    @property
    def pid(self) -> int:
        """The process; 0 between two of them."""
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def signal(self, number: int) -> bool:
        """Send a signal; say whether there was a process to take it."""
        if not self.pid:
            return False
        os.kill(self.pid, number)
        return True


def _die_with_us() -> None:
    """Ask the kernel to kill this process when the run ends in whatever way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _python_path() -> list[str]:
    return [str(ROOT), *[path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]]


class Postgres:
    """A durable PostgreSQL of the run's own, to be hurt; on a small disk of its own where one can be mounted."""

    def __init__(self, folder: Path, disk_bytes: int) -> None:
        """Take where its data goes, and how much there may be of it."""
        self._home = folder / "postgres"
        self._disk_bytes = disk_bytes
        self.is_on_small_disk = False
        self._running: EmbeddedPostgres | None = None
        self.port = 0
        self.restarting = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where it is, past every proxy."""
        assert self._running is not None
        return self._running.dsn

    @property
    def log_path(self) -> Path:
        """Where it writes what happens."""
        return self._home / "postgres.log"

    @property
    def filler_path(self) -> Path:
        """A file that fills its disk."""
        return self._home / "filler"

    def start(self) -> None:
        """Start it; later starts take the same port."""
        if not self._home.exists():
            self._home.mkdir(parents=True)
            self.is_on_small_disk = _mount_small_disk(self._home, self._disk_bytes)
        self._running = embedded.start(self._home, port=self.port, settings=POSTGRES_SETTINGS)
        self.port = self._running.port

    def stop(self) -> None:
        """Stop it the fast way."""
        if self._running is not None:
            self._running.stop()

    def crash(self) -> None:
        """Stop it the immediate way: no checkpoint, as after a power cut."""
        assert self._running is not None
        with contextlib.suppress(ProcessLookupError, OSError, ValueError):
            os.kill(self.postmaster, signal.SIGQUIT)
        self._running.stop()

    @property
    def postmaster(self) -> int:
        """Its first process."""
        assert self._running is not None
        return int((self._running.data_dir / "postmaster.pid").read_text().split()[0])

    def is_alive(self) -> bool:
        """Say whether its first process runs."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.postmaster, 0)
            return True
        return False

    def close(self) -> None:
        """Stop it and give its disk back."""
        self.stop()
        if self.is_on_small_disk:
            subprocess.run(["umount", "-l", str(self._home)], check=False)


def _mount_small_disk(folder: Path, size: int) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "quorra-faults", str(folder)],
        check=False,
        capture_output=True,
    )
    return mounted.returncode == 0


class Stage:
    """Everything that a run hurts."""

    def __init__(
        self,
        folder: Path,
        *,
        servers: int,
        workers: int,
        lease_seconds: float,
        seed: int,
        rate: float,
        key: str = API_KEY,
        seconds: float = 0.0,
    ) -> None:
        """Take how much of everything; nothing is started yet."""
        self.folder = folder
        self.lease_seconds = lease_seconds
        self.seed, self.rate = seed, rate
        self.key = key
        self.history = History(folder, "faults")
        self.postgres = Postgres(folder, DISK_BYTES + int(DISK_BYTES_PER_MINUTE * seconds / 60))
        self._server_count, self._worker_count = servers, workers
        self.servers: list[Slot] = []
        self.workers: list[Slot] = []
        self.redis: Slot | None = None
        self.pgbouncer: Slot | None = None
        self.load: Slot | None = None
        self.db_proxies: list[Proxy] = []
        self.redis_proxies: list[Proxy] = []
        self.worker_proxies: list[Proxy] = []
        self.http_proxies: list[Proxy] = []
        self.plain_proxies: list[Proxy] = []
        self.recorder: Recorder | None = None
        self._stack = AsyncExitStack()
        self._guard: asyncio.Task[None] | None = None
        self._held: set[str] = set()
        self._http_ports: list[int] = []
        self._grpc_ports: list[int] = []
        self.redis_port = 0
        self.password = ""

    async def open(self, say: Callable[[str], None]) -> None:
        """Start everything, and wait until it serves."""
        say("PostgreSQL")
        await asyncio.to_thread(self.postgres.start)
        self._stack.callback(self.postgres.close)
        self.password = urlsplit(self.postgres.url).password or ""
        await migrate(self.postgres.url)
        self.recorder = Recorder(self.postgres.url, self.folder / "oracle.bin")
        await self.recorder.prepare()
        say("Redis and the proxies")
        self._start_redis()
        self._start_pgbouncer()
        for number in range(self._server_count):
            await self._add_server(number)
        say("servers")
        for server in self.servers:
            server.start()
        await self.wait_until_ready()
        await self._add_workers()
        # Only the oracle can tell a job that was purged from one that was lost.
        await self._add_load("--purges")
        say("workers and clients")
        for slot in (*self.workers, self.load):
            assert slot is not None
            slot.start()
        self._guard = asyncio.create_task(self._keep_alive())

    async def while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for as long as everything is kept alive.

        Raises:
            RuntimeError: Something that must not end has ended, which would make the run worthless.
        """
        assert self._guard is not None
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._guard}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await self._guard
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End everything."""
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
        for slot in self.slots:
            slot.is_wanted = False
            slot.signal(signal.SIGCONT)
            slot.signal(signal.SIGTERM)
        for slot in self.slots:
            await asyncio.to_thread(_end, slot)
        await self._stack.aclose()
        self.history.close()

    @property
    def slots(self) -> list[Slot]:
        """All processes that are kept alive."""
        others = [slot for slot in (self.load, self.redis, self.pgbouncer) if slot is not None]
        return [*self.workers, *self.servers, *others]

    @contextlib.contextmanager
    def one_of(self, slots: list[Slot], dice: random.Random) -> Iterator[Slot]:
        """Choose a process that no other fault has chosen, as long as there is one."""
        chosen = dice.choice([slot for slot in slots if slot.name not in self._held] or slots)
        self._held.add(chosen.name)
        try:
            yield chosen
        finally:
            self._held.discard(chosen.name)

    @property
    def proxies(self) -> list[Proxy]:
        """All proxies."""
        return [*self.db_proxies, *self.redis_proxies, *self.worker_proxies, *self.http_proxies, *self.plain_proxies]

    @property
    def http_urls(self) -> list[str]:
        """REST of each server, past every proxy."""
        return [f"http://127.0.0.1:{port}" for port in self._http_ports]

    @property
    def headers(self) -> Mapping[str, str]:
        """The key, as REST wants it."""
        return {"X-API-Key": self.key}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The key, as gRPC wants it."""
        return (("x-api-key", self.key),)

    def note_restart(self, what: str) -> None:
        """Count a restart."""
        self.history.write("restart", what=what)

    async def wait_until_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Wait until every server is ready."""
        deadline = time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=2, verify=NO_TLS) as client:
            for url in self.http_urls:
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get(f"{url}/readyz")).is_success:
                            break
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"the server at {url} is not ready after {seconds:g} s; see {self.folder}")
                    await asyncio.sleep(0.1)

    async def postgres_answers(self, since: float) -> None:
        """Wait until PostgreSQL answers, and note that it is back."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self.postgres.url, timeout=2)
                await connection.close()
                self.history.write("returned_service", what="PostgreSQL", after=time.time() - since)
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("PostgreSQL did not come back")

    # Parts.

    def _slot(self, name: str, command: list[str], environment: dict[str, str]) -> Slot:
        return Slot(name, command, environment, self.folder / f"{name}.log")

    def _start_redis(self) -> None:
        self.redis_port = free_port()
        arguments = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.redis = self._slot("redis", [redis_binary(), *arguments], {})
        self.redis.start()
        wait_until_listening(self.redis_port)

    def _start_pgbouncer(self) -> None:
        """Put a PgBouncer in transaction mode before the last server, where there is one."""
        program = shutil.which(os.environ.get(COMMAND_VARIABLE, "pgbouncer")) or shutil.which("/usr/sbin/pgbouncer")
        if program is None:
            return
        port = free_port()
        parts = urlsplit(self.postgres.url)
        users, configuration = self.folder / "users.txt", self.folder / "pgbouncer.ini"
        users.write_text(f'"{parts.username}" "{self.password}"\n')
        configuration.write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={parts.port} dbname=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\npool_mode = transaction\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\nmax_client_conn = 200\ndefault_pool_size = 20\n"
            "ignore_startup_parameters = extra_float_digits,application_name,jit\nunix_socket_dir =\n"
            "server_login_retry = 1\n"
            "server_check_delay = 0\nquery_wait_timeout = 10\n"
        )
        command = [program, str(configuration)]
        if os.geteuid() == 0:
            for path in (users, configuration, self.folder):
                os.chmod(path, 0o755 if path.is_dir() else 0o644)
            command = [program, "-u", "nobody", str(configuration)]
        self.pgbouncer = self._slot("pgbouncer", command, {})
        self.pgbouncer.extra = {"FAULTS_PORT": str(port)}
        self.pgbouncer.start()

    async def _add_server(self, number: int) -> None:
        parts = urlsplit(self.postgres.url)
        is_pooled = self.pgbouncer is not None and number == self._server_count - 1 and number > 0
        database_port = int(self.pgbouncer.extra["FAULTS_PORT"]) if is_pooled and self.pgbouncer else parts.port
        database = await self._proxy(self.db_proxies, ("127.0.0.1", database_port or 0))
        redis = await self._proxy(self.redis_proxies, ("127.0.0.1", self.redis_port))
        http, grpc = free_port(), free_port()
        self._http_ports.append(http)
        self._grpc_ports.append(grpc)
        await self._proxy(self.http_proxies, ("127.0.0.1", http))
        await self._proxy(self.plain_proxies, ("127.0.0.1", grpc))
        netloc = f"{parts.username}:{parts.password}@{database.address}"
        environment = {
            "QUORRA_ENV": "test",
            "QUORRA_API_KEY": self.key,
            "QUORRA_HTTP_ADDR": f"127.0.0.1:{http}",
            "QUORRA_GRPC_ADDR": f"127.0.0.1:{grpc}",
            "QUORRA_NODE_NAME": f"node-{number}",
            "QUORRA_GRACE": "5s",
            "DATABASE_URL": urlunsplit(parts._replace(netloc=netloc)),
            "REDIS_URL": f"redis://{redis.address}/0",
            "QUORRA_LOG_LEVEL": "info",
        }
        if is_pooled:
            environment |= {"QUORRA_PREPARED_STATEMENTS": "off", "QUORRA_NOTIFY": "off"}
        self.servers.append(self._slot(f"server-{number}", [str(BIN / "quorra-server")], environment))

    async def _add_workers(self) -> None:
        """Add the workers of the load, and one that waits for quick jobs."""
        for number in range(self._worker_count):
            await self._add_worker(number, "default,bulk")
        await self._add_worker(self._worker_count, QUICK_QUEUE)

    async def _add_worker(self, number: int, queues: str) -> None:
        """Each worker reaches all servers through a balancer of its own; it begins with another one."""
        proxy = await self._proxy(self.worker_proxies, *self._worker_targets(number))
        environment = {
            "QUORRA_GRPC_ADDR": proxy.address,
            "QUORRA_API_KEY": self.key,
            "QUORRA_WORKER_ID": f"worker-{number}",
            "FAULTS_FOLDER": str(self.folder),
            "FAULTS_QUEUES": queues,
            "FAULTS_SLOTS": str(WORKER_SLOTS),
            "FAULTS_LEASE_SECONDS": f"{self.lease_seconds:g}",
        }
        command = [str(BIN / "quorra-worker"), "tests.faults.work:worker", "--log-level", "warning"]
        self.workers.append(self._slot(f"worker-{number}", command, environment))

    def _worker_targets(self, number: int) -> list[tuple[str, int]]:
        ports = self._grpc_ports
        return [("127.0.0.1", ports[(number + step) % len(ports)]) for step in range(len(ports))]

    async def _add_load(self, *more: str) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.faults.load",
            "--http",
            ",".join(f"http://{proxy.address}" for proxy in self.http_proxies),
            "--grpc",
            ",".join(proxy.address for proxy in self.plain_proxies),
            "--folder",
            str(self.folder),
            "--seed",
            str(self.seed),
            "--rate",
            f"{self.rate:g}",
            *more,
        ]
        self.load = self._slot("load", command, {"QUORRA_API_KEY": self.key})

    async def _proxy(self, kind: list[Proxy], target: tuple[str, int], *more: tuple[str, int]) -> Proxy:
        proxy = await self._stack.enter_async_context(Proxy(*target, *more))
        kind.append(proxy)
        return proxy

    async def _keep_alive(self) -> None:
        """Start again what has ended."""
        while True:
            await asyncio.sleep(RESPAWN_SECONDS)
            if self.recorder is not None and self.recorder.has_failed:
                raise RuntimeError("the recorder of the oracle has ended, and without it there is nothing to judge")
            for slot in self.slots:
                if slot.is_wanted and not slot.pid:
                    if slot is self.load:
                        raise RuntimeError(f"the clients have ended; see {slot.log_path}")
                    slot.start()
                    self.note_restart(slot.name.partition("-")[0])


def _end(slot: Slot) -> None:
    if slot.process is None:
        return
    try:
        slot.process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        slot.process.kill()
        slot.process.wait()
