"""A run against somebody's test installation: only what can be reached from outside is hurt, and seen.

Our own workers and clients go through proxies of ours, so that the network between them and the installation can be
hurt, and so can the workers themselves. The judge has no oracle then: it asks REST for every job that was accepted.
"""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console

from tests.faults.kinds import KINDS
from tests.faults.stage import Stage
from tests.support.faketime import faketime

if TYPE_CHECKING:
    from tests.faults.run import Options

# These touch nothing but our own processes and connections.
OUTSIDE_KINDS = ("worker", "net.worker", "net.client", "client", "job")
REST_SECONDS_MAX = 300.0
ASKED_AT_ONCE = 20
TERMINAL = {"succeeded", "dead", "cancelled"}


class OutsideStage(Stage):
    """Workers and clients of ours, and somebody's installation."""

    def __init__(self, options: "Options", key: str) -> None:
        """Take where the installation is, and its key."""
        super().__init__(
            options.folder,
            servers=0,
            workers=options.workers,
            lease_seconds=options.lease_seconds,
            seed=options.seed,
            rate=options.rate,
            key=key,
        )
        self._rest = rest_address(options.against or "")
        self._grpc = grpc_address(options.grpc)

    async def open_outside(self) -> None:
        """Start our side."""
        await self._proxy(self.http_proxies, self._rest)
        await self._proxy(self.plain_proxies, self._grpc)
        await self._add_workers()
        await self._add_load()
        for slot in self.slots:
            slot.start()
        self._guard = asyncio.create_task(self._keep_alive())

    @property
    def http_urls(self) -> list[str]:
        """REST, past our proxies."""
        return [f"http://{self._rest[0]}:{self._rest[1]}"]

    def _worker_targets(self, number: int) -> list[tuple[str, int]]:
        return [self._grpc]


def foreign_kinds() -> dict[str, str]:
    """Return the kinds that cannot be done to somebody's installation, each with why."""
    reasons = {
        name: "it would hurt what is not ours" for name, kind in KINDS.items() if kind.group not in OUTSIDE_KINDS
    }
    if faketime() is None:
        reasons["worker.clock"] = "there is no libfaketime"
    return reasons


def rest_address(url: str) -> tuple[str, int]:
    """Return where an installation's REST listens.

    Raises:
        SystemExit: Not by plain HTTP, whose bytes the proxies before it could pass on and cut; or it is no address.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        raise SystemExit(
            f"faults: {url} is HTTPS, and a fault run cuts plain connections; give the plain HTTP address of one of its"
            " servers behind the TLS proxy, such as http://10.0.0.5:8080, or end TLS before it: "
            f"socat TCP-LISTEN:8080,fork OPENSSL:{parts.hostname or 'host'}:{parts.port or 443}"
        )
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise SystemExit(f"faults: --against {url} is no address such as http://localhost:8080")
    return parts.hostname, parts.port or 80


def grpc_address(text: str) -> tuple[str, int]:
    """Return where an installation's gRPC listens.

    Raises:
        SystemExit: It is no address.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise SystemExit(f"faults: --grpc {text} is no address such as localhost:50051")
    return host or "localhost", int(port)


async def look_from_outside(stage: Stage, console: Console) -> None:
    """Ask for every job that was accepted until all have ended, and write down what became of each."""
    accepted = _accepted(stage.folder)
    console.print(f"asking for {len(accepted):,} jobs ...")
    left, deadline = accepted, time.monotonic() + REST_SECONDS_MAX
    states: dict[str, str] = {}
    async with httpx.AsyncClient(headers=dict(stage.headers), timeout=20) as client:
        while left and time.monotonic() < deadline:
            for start in range(0, len(left), ASKED_AT_ONCE):
                some = left[start : start + ASKED_AT_ONCE]
                states.update(
                    zip(some, await asyncio.gather(*(_state(client, stage, job) for job in some)), strict=True)
                )
            left = [job for job in left if states[job] not in TERMINAL and states[job] != "missing"]
            await asyncio.sleep(1)
    for job, state in states.items():
        stage.history.write("final", job=job, state=state)


async def _state(client: httpx.AsyncClient, stage: Stage, job: str) -> str:
    with contextlib.suppress(httpx.HTTPError):
        response = await client.get(f"{stage.http_urls[0]}/v1/jobs/{job}")
        if response.status_code == 404:
            return "missing"
        if response.is_success:
            return str(response.json()["status"])
    return "not told"


def _accepted(folder: Path) -> list[str]:
    jobs: dict[str, None] = {}
    for path in folder.glob("client-*.jsonl"):
        for line in path.read_text().splitlines():
            said: dict[str, Any] = json.loads(line)
            if said["event"] == "ok" and said["what"] == "submit":
                jobs.update(dict.fromkeys(job for job, _ in said["jobs"]))
    return list(jobs)


def key_from_environment() -> str:
    """Return the key of the installation.

    Raises:
        SystemExit: It is not given.
    """
    key = os.environ.get("QUORRA_API_KEY", "")
    if not key:
        raise SystemExit("faults: set QUORRA_API_KEY to a key of the test installation")
    return key
