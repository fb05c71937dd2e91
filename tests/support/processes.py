"""Real processes of the product, started as users start them; their logs are shown when a test fails."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.pooler import SERVER_SETTINGS, is_pooled, through_pooler
from tests.support.services import free_port

API_KEY = "test-key-of-thirty-two-characters-or-more"
# Generous: a machine may be busy with other things, and a server that is not coming says so by ending.
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
BIN = Path(sys.executable).parent
# For clients of plain HTTP: without it each new client of httpx reads the machine's certificates, 80 ms of CPU a time.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(slots=True)
class Running:
    """A process with its log."""

    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(STOP_SECONDS_MAX)

    def terminate(self) -> int:
        """End it with SIGTERM and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        return self.process.wait(STOP_SECONDS_MAX)

    @property
    def is_alive(self) -> bool:
        """Say whether it runs."""
        return self.process.poll() is None


@dataclass(slots=True)
class RunningServer(Running):
    """A Quorra server."""

    http_url: str = ""
    grpc_address: str = ""
    api_key: str = API_KEY
    database_url: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The API key as REST wants it."""
        return {"X-API-Key": self.api_key}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The API key as gRPC wants it."""
        return (("x-api-key", self.api_key),)

    @property
    def environment(self) -> dict[str, str]:
        """What a worker or the command line needs to reach it."""
        return {
            "QUORRA_GRPC_ADDR": self.grpc_address,
            "QUORRA_SERVER": self.http_url,
            "QUORRA_API_KEY": self.api_key,
        }


@contextlib.contextmanager
def start_process(command: list[str], environment: Mapping[str, str], *, cwd: Path | None = None) -> Iterator[Running]:
    """Start a program with only the given `QUORRA_*` variables; it is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="quorra-log-", ignore_cleanup_errors=True) as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**clean_environment(), **environment},
            )
        running = Running(process, log_path)
        try:
            yield running
        except BaseException:
            print(f"--- log of {' '.join(command)} (last lines)\n{running.log[-4000:]}", file=sys.stderr)
            raise
        finally:
            if running.is_alive:
                running.signal(signal.SIGCONT)
                running.kill()


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of Quorra's, or of the tests."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QUORRA_") and name not in ("DATABASE_URL", "REDIS_URL", "GRPC_ENABLE_FORK_SUPPORT")
    }


@contextlib.contextmanager
def start_server(
    database_url: str,
    environment: Mapping[str, str] | None = None,
    *,
    arguments: tuple[str, ...] = (),
    http_port: int = 0,
    grpc_port: int = 0,
) -> Iterator[RunningServer]:
    """Start `quorra-server` on a migrated database and wait until it is ready."""
    http_address = f"127.0.0.1:{http_port or free_port()}"
    grpc_address = f"127.0.0.1:{grpc_port or free_port()}"
    settings = {
        "QUORRA_ENV": "test",
        "DATABASE_URL": through_pooler(database_url),
        **(SERVER_SETTINGS if is_pooled() else {}),
        "QUORRA_API_KEY": API_KEY,
        "QUORRA_HTTP_ADDR": http_address,
        "QUORRA_GRPC_ADDR": grpc_address,
        **(environment or {}),
    }
    with start_process([str(BIN / "quorra-server"), *arguments], settings) as running:
        server = RunningServer(
            running.process,
            running.log_path,
            http_url=f"http://{http_address}",
            grpc_address=grpc_address,
            api_key=settings["QUORRA_API_KEY"],
            database_url=database_url,
        )
        wait_until_ready(server)
        yield server


def wait_until_ready(server: RunningServer, timeout: float = READY_SECONDS_MAX) -> None:
    """Wait until a server says that it is ready."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and server.is_alive:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.http_url}/readyz", timeout=3, verify=NO_TLS).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready after {timeout:g} s:\n{server.log[-4000:]}")


@contextlib.contextmanager
def start_worker(
    server: RunningServer,
    module: str,
    folder: Path,
    *,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Write a module with a `worker` into `folder` and run it with `quorra-worker`.

    The module text is dedented; several workers of one text can share the folder.
    """
    name = f"module_{abs(hash(module))}"
    (folder / f"{name}.py").write_text(textwrap.dedent(module))
    settings = {**server.environment, **(environment or {})}
    command = [str(BIN / "quorra-worker"), f"{name}:worker", *arguments]
    with start_process(command, settings, cwd=folder) as running:
        yield running
