"""The stage of a scenario: a fresh database, and servers, workers and load generators as real processes on it."""

import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import msgspec
import psutil

from benchmarks import database
from benchmarks.cluster import Cluster
from benchmarks.load import API_KEY, OPEN, QUEUE, ROOT, Generator, Target
from benchmarks.usage import Window, tree_seconds

BIN = Path(sys.executable).parent
WORKER = ("quorra-worker", "benchmarks.worker:worker", "--log-level", "warning")
BARE_WORKER = ("python", "-m", "benchmarks.bare.worker")
# What a user who wants throughput gives an async worker; its prefetch follows the rate by itself.
SLOTS = 200
LEASE_SECONDS = 30
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 15.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    http_url: str
    grpc_address: str
    process: psutil.Popen


class Stage(contextlib.AbstractContextManager["Stage"]):
    """A fresh database, and processes on it that end with the stage."""

    def __init__(
        self,
        cluster: Cluster,
        say: Callable[[str], object] = lambda _: None,
        started: Callable[[str, int], object] = lambda role, pid: None,
    ) -> None:
        """Take the PostgreSQL to use, whom to tell what is going on, and whom to tell of each server and worker."""
        self.say = say
        self._started = started
        self.servers: list[Server] = []
        self.workers: list[psutil.Popen] = []
        self.folder = Path()
        self.database_url = ""
        self._cluster = cluster
        self._generator_seconds = 0.0
        self._http = httpx.Client(headers={"X-API-Key": API_KEY}, timeout=30)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Stage":
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_all()
        self._http.close()
        self._stack.close()

    def begin(self, *, servers: int = 1) -> None:
        """Stop everything, and begin with an empty database and so many servers on it."""
        self._stop_all()
        self.database_url = database.make_fresh(self._cluster.admin_dsn)
        for _ in range(servers):
            self._start_server()

    def begin_bare(self, *, jobs: int = 0) -> None:
        """Stop everything, and begin with a bare server in place of Quorra, and so many jobs that wait."""
        self._stop_all()
        self.database_url = database.make_fresh(self._cluster.admin_dsn)
        database.fill_bare(self.database_url, jobs)
        http, grpc = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
        command = ["python", "-m", "benchmarks.bare.server", http, grpc, self.database_url]
        self._add_server(http, grpc, self._start(command, {}), role="bare-server")

    def _stop_all(self) -> None:
        self.stop_workers()
        _stop([server.process for server in self.servers])
        self.servers.clear()

    # Processes.

    def _start_server(self) -> None:
        http, grpc = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
        environment = {
            "QUORRA_ENV": "test",
            "DATABASE_URL": self.database_url,
            "QUORRA_API_KEY": API_KEY,
            "QUORRA_HTTP_ADDR": http,
            "QUORRA_GRPC_ADDR": grpc,
            "QUORRA_LOG_LEVEL": "warning",
            # All of them come from one address.
            "QUORRA_HTTP_CONNECTIONS_PER_ADDRESS_MAX": "0",
        }
        self._add_server(http, grpc, self._start(["quorra-server"], environment))

    def _add_server(self, http: str, grpc: str, process: psutil.Popen, *, role: str = "server") -> None:
        server = Server(f"http://{http}", grpc, process)
        self.servers.append(server)
        self._started(role, process.pid)
        self._wait_until(lambda: self._is_ready(server), Path(process.args[0]).name)

    def start_worker(self, command: Sequence[str] = WORKER, /, **environment: str) -> psutil.Popen:
        """Start one more worker, on the next server in turn."""
        server = self.servers[len(self.workers) % len(self.servers)]
        settings = {
            "QUORRA_GRPC_ADDR": server.grpc_address,
            "QUORRA_API_KEY": API_KEY,
            "BENCH_SLOTS": str(SLOTS),
            "BENCH_LEASE_SECONDS": str(LEASE_SECONDS),
            "BENCH_QUEUES": QUEUE,
            **environment,
        }
        worker = self._start(command, settings)
        self.workers.append(worker)
        self._started("worker", worker.pid)
        return worker

    def start_workers_together(self, count: int, command: Sequence[str] = WORKER, /, **environment: str) -> None:
        """Start so many more workers; none of them connects before all have started."""
        gate = self.folder / f"gate-{time.monotonic_ns()}"
        for _ in range(count):
            self.start_worker(command, BENCH_GATE=str(gate), **environment)
        self._wait_until(lambda: len(list(self.folder.glob(f"{gate.name}.*"))) == count, command[0])
        gate.touch()

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers are known to the server."""
        self._wait_until(lambda: len(self._get("/v1/workers")["workers"]) >= count, "quorra-worker")

    def stop_workers(self) -> None:
        """Let the workers drain and end."""
        _stop(self.workers)
        self.workers.clear()

    def _start(self, command: Sequence[str], environment: dict[str, str]) -> psutil.Popen:
        # Settings of the caller's own Quorra are not for these processes.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUORRA_")}
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            return psutil.Popen(
                [BIN / command[0], *command[1:]], env={**inherited, **environment}, stdout=log, stderr=log, cwd=ROOT
            )

    def _wait_until(self, is_so: Callable[[], bool], program: str) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            if is_so():
                return
            time.sleep(LOOK_SECONDS)
        log = self.folder / f"{program}.log"
        raise TimeoutError(f"{program} is not ready; its log ends with: {log.read_text()[-2000:]}")

    def _is_ready(self, server: Server) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.get(f"{server.http_url}/readyz").is_success
        return False

    # Load.

    def generate(self, generator: str, **options: object) -> dict[str, Any]:
        """Run a load generator to its end and return what it measured."""
        with self.generating(generator, **options) as running:
            return running.reply()

    @contextlib.contextmanager
    def generating(self, generator: str, **options: object) -> Iterator[Generator]:
        """Run a load generator beside what the caller does."""
        target = Target("", "", self.database_url)
        if self.servers:
            target = Target(self.servers[0].http_url, self.servers[0].grpc_address, self.database_url)
        running = Generator(generator, asdict(target) | options, self._generator_used)
        try:
            yield running
        finally:
            running.end()

    def _generator_used(self, seconds: float) -> None:
        self._generator_seconds += seconds

    # What the system says.

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are by status, over all queues."""
        counts: dict[str, int] = {}
        for entry in self._get("/v1/queues")["queues"]:
            counts[entry["status"]] = counts.get(entry["status"], 0) + entry["count"]
        return counts

    def wait_until_empty(self) -> None:
        """Wait until no job waits or runs."""
        self._wait_until(lambda: not any(self.counts().get(status) for status in OPEN), "quorra-server")

    def _get(self, path: str) -> Any:
        reply = self._http.get(f"{self.servers[0].http_url}{path}")
        return msgspec.json.decode(reply.raise_for_status().content)

    # What it used.

    def window(self) -> Window:
        """Begin to count the CPU time of every role."""
        return Window(self.cpu_seconds)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time that each role has used so far."""
        postmaster = self._cluster.postmaster
        return {
            "PostgreSQL": tree_seconds(postmaster) if postmaster else 0.0,
            "server": sum(tree_seconds(server.process) for server in self.servers),
            "worker": sum(tree_seconds(worker) for worker in self.workers),
            "generator": time.process_time() + self._generator_seconds,
        }


def _stop(processes: list[psutil.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS_MAX)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
