"""What load is made of: what a load generator is told, and a running one."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
API_KEY = "benchmark-key-of-thirty-two-characters"
QUEUE = "bench"
# Of jobs that are not over.
OPEN = ("pending", "leased", "processing", "failed")


@dataclass(frozen=True, slots=True)
class Target:
    """What a load generator needs to reach the system."""

    http_url: str
    grpc_address: str
    database_url: str
    api_key: str = API_KEY


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


def queue_names(count: int) -> list[str]:
    """Return the names of so many queues; the first is `QUEUE`."""
    return [QUEUE, *(f"{QUEUE}-{number}" for number in range(1, count))]


def payload(number: int, size_bytes: int = 200) -> dict[str, object]:
    """Return a payload of about so many bytes of JSON; numbers take a few of them."""
    return {"id": number, "pad": "x" * max(1, size_bytes - 20)}
