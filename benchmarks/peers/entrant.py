"""A contestant on the ground: its producers and workers as real processes, ours with its server."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
from quorra_server.storage.migrate import migrate

from benchmarks.load import API_KEY
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.ground import Ground, cpu_seconds, free_port
from benchmarks.peers.install import Program, install

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CALL_SECONDS_MAX = 300
READY_SECONDS_MAX = 30.0


class Failed(Exception):
    """A contestant's program failed; the message ends with what it said."""


class Entrant:
    """A peer that is installed."""

    def __init__(self, contestant: Contestant, ground: Ground) -> None:
        """Install it.

        Raises:
            NotInstalled: It cannot be had here; the message says why.
        """
        self.contestant = contestant
        self.ground = ground
        self.record = ground.folder / f"{contestant.name}.record"
        self._program = self._install()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Stand on an empty ground with what the contestant needs there."""
        self.ground.clear()
        self.record.unlink(missing_ok=True)
        self.call("prepare")
        yield

    def call(self, *arguments: object) -> dict[str, Any]:
        """Run the adapter to its end and return its answer.

        Raises:
            Failed: It ended with an error, or took too long.
        """
        command = [*self._program.command, *map(str, arguments)]
        try:
            done = subprocess.run(
                command,
                env={**_inherited(), **self.environment},
                cwd=ROOT,
                check=False,
                capture_output=True,
                text=True,
                timeout=CALL_SECONDS_MAX,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{arguments[0]} took over {CALL_SECONDS_MAX} s") from error
        if done.returncode:
            raise Failed(f"{arguments[0]}: {(done.stderr or done.stdout).strip()[-1500:]}")
        answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return dict(json.loads(answers[-1])) if answers else {}

    @contextlib.contextmanager
    def workers(self, number: int, **environment: str) -> Iterator[list[psutil.Process]]:
        """Run worker processes; they are killed at the end, when all that is measured is over."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self._worker(environment)) for _ in range(number)]

    def unfinished(self, submitted: int) -> int:
        """Count the jobs, of those submitted, that are not durably acknowledged."""
        ask = self.ground.ask if self.contestant.store == "postgres" else self.ground.ask_redis
        return ask(self.contestant.unfinished.format(jobs=submitted))

    def server_cpu_seconds(self) -> float:
        """Return the CPU time of a server of its own; libraries have none."""
        return 0.0

    @property
    def log(self) -> Path:
        """What its workers say."""
        return self.ground.folder / f"{self.contestant.name}.log"

    @property
    def environment(self) -> Mapping[str, str]:
        """Where the adapter finds its store, its settings and the record."""
        on_postgres = self.contestant.store == "postgres"
        return {
            "PEER_URL": self.ground.database_url if on_postgres else self.ground.redis_url,
            "PEER_SETTINGS": json.dumps(self.contestant.settings),
            "PEER_RECORD": str(self.record),
        }

    def _install(self) -> Program:
        return install(self.contestant)

    def _worker_command(self) -> list[str]:
        return [*self._program.command, "work"]

    @contextlib.contextmanager
    def _worker(self, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._worker_command(),
                env={**_inherited(), **self.environment, **environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield psutil.Process(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class OurEntrant(Entrant):
    """Quorra as a user has it: a server process with its default settings, `quorra-worker`, and a client."""

    _server: psutil.Process | None = None
    _http = ""
    _grpc = ""

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Stand on a migrated database with a server on it."""
        self.ground.clear()
        self.record.unlink(missing_ok=True)
        asyncio.run(migrate(self.ground.database_url))
        self._http, self._grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [BIN / "quorra-server"], env={**_inherited(), **self.environment}, cwd=ROOT, stdout=log, stderr=log
            )
        try:
            self._server = psutil.Process(process.pid)
            self._wait_until_ready()
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def server_cpu_seconds(self) -> float:
        """Return the CPU time of the server."""
        assert self._server is not None
        return cpu_seconds(self._server)

    @property
    def environment(self) -> Mapping[str, str]:
        """Where server, worker and client find each other."""
        return {
            **super().environment,
            "PEER_URL": f"http://{self._http}" if self.contestant.door == "rest" else self._grpc,
            "QUORRA_ENV": "test",
            "DATABASE_URL": self.ground.database_url,
            "QUORRA_API_KEY": API_KEY,
            "QUORRA_HTTP_ADDR": self._http,
            "QUORRA_GRPC_ADDR": self._grpc,
            "QUORRA_LOG_LEVEL": "warning",
        }

    def _install(self) -> Program:
        return Program((sys.executable, "-m", "benchmarks.peers.adapters.quorra"))

    def _worker_command(self) -> list[str]:
        return [str(BIN / "quorra-worker"), "benchmarks.peers.adapters.quorra:worker", "--log-level", "warning"]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://{self._http}/readyz").is_success:
                    return
            time.sleep(0.05)
        raise Failed(f"the server is not ready: {self.log.read_text()[-1500:]}")


def _inherited() -> dict[str, str]:
    """Return this environment without settings of the caller's own Quorra; a server refuses those it does not know."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QUORRA_")}
