"""The stage of a scenario: a fresh database, and servers, workers and load generators as real processes on it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import msgspec
import psutil

from benchmarks import database
from benchmarks.cluster import Cluster
from benchmarks.figures import Figure

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
API_KEY = "benchmark-key-of-thirty-two-characters"
QUEUE = "bench"
# What a user who wants throughput gives an async worker; its prefetch follows the rate by itself.
SLOTS = 200
LEASE_SECONDS = 30
READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
LOOK_SECONDS = 0.05
OPEN = ("pending", "leased", "processing", "failed")


@dataclass(frozen=True, slots=True)
class Target:
    """What a load generator needs to reach the system."""

    http_url: str
    grpc_address: str
    database_url: str
    api_key: str = API_KEY


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
        self.database_url = database.make_fresh(self._cluster.admin_dsn)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_all()
        self._http.close()
        self._stack.close()

    def start_over(self) -> None:
        """Stop everything and begin again with an empty database."""
        self._stop_all()
        self.database_url = database.make_fresh(self._cluster.admin_dsn)

    def _stop_all(self) -> None:
        self.stop_workers()
        _stop([server.process for server in self.servers])
        self.servers.clear()

    # Processes.

    def start_server(self) -> Server:
        """Start one more server and wait until it is ready."""
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
        server = Server(f"http://{http}", grpc, self._start(["quorra-server"], environment))
        self.servers.append(server)
        self._started("server", server.process.pid)
        self._wait_until(lambda: self._is_ready(server), "quorra-server")
        return server

    def start_worker(self, **environment: str) -> psutil.Popen:
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
        worker = self._start(["quorra-worker", "benchmarks.worker:worker", "--log-level", "warning"], settings)
        self.workers.append(worker)
        self._started("worker", worker.pid)
        return worker

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers are known to the server."""
        self._wait_until(lambda: len(self._get("/v1/workers")["workers"]) >= count, "quorra-worker")

    def stop_workers(self) -> None:
        """Let the workers drain and end."""
        _stop(self.workers)
        self.workers.clear()

    def _start(self, command: list[str], environment: dict[str, str]) -> psutil.Popen:
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
    def generating(self, generator: str, **options: object) -> Iterator["Generator"]:
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

    def window(self) -> "Window":
        """Begin to count the CPU time of every role."""
        return Window(self)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time that each role has used so far."""
        postmaster = self._cluster.postmaster
        return {
            "PostgreSQL": _tree_seconds(postmaster) if postmaster else 0.0,
            "server": sum(_tree_seconds(server.process) for server in self.servers),
            "worker": sum(_tree_seconds(worker) for worker in self.workers),
            "generator": time.process_time() + self._generator_seconds,
        }


class Generator:
    """A running load generator."""

    def __init__(self, name: str, options: dict[str, object], used: Callable[[float], None]) -> None:
        """Start it; `used` is told the CPU time that it counted for itself."""
        self._name = name
        self._used = used
        command = [sys.executable, "-m", "benchmarks.generators", name, json.dumps(options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def reply(self) -> dict[str, Any]:
        """Wait for its next answer.

        Raises:
            RuntimeError: It failed; its traceback stands above.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator {self._name!r} failed; its traceback stands above")
        reply: dict[str, Any] = json.loads(line)
        self._used(reply["cpu_seconds"])
        return reply

    def go_on(self) -> None:
        """Let a generator that waits go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Window:
    """A stretch of time, and what each role used in it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._cpu = stage.cpu_seconds()
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return time.perf_counter() - self._began

    def figure(
        self, what: str, value: float, unit: str, *, jobs: int, seconds: float | None = None, at: float | None = None
    ) -> Figure:
        """Return a figure with the CPU time that each of so many jobs took until now.

        Args:
            seconds: How long the load lasted, where that is less than the window.
        """
        seconds = seconds or self.seconds
        used = {role: now - self._cpu[role] for role, now in self._stage.cpu_seconds().items()}
        share = used["generator"] / (seconds * (os.cpu_count() or 1)) * 100
        cpu_us = {role: part / jobs * 1_000_000 for role, part in used.items()}
        return Figure(what, value, unit, at, cpu_us, share)


def _stop(processes: list[psutil.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS_MAX)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _tree_seconds(root: psutil.Process) -> float:
    """Return the CPU time of a process and all below it; those that ended are in what their parent waited for."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def queue_names(count: int) -> list[str]:
    """Return the names of so many queues; the first is `QUEUE`."""
    return [QUEUE, *(f"{QUEUE}-{number}" for number in range(1, count))]


def payload(number: int, size_bytes: int = 200) -> dict[str, object]:
    """Return a payload of about so many bytes of JSON; numbers take a few of them."""
    return {"id": number, "pad": "x" * max(1, size_bytes - 20)}
