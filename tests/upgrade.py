"""`hatch run upgrade --from REVISION`: an older version is replaced by this one under load, server by server.

The packages of the revision are built into an environment of their own. Then, while clients submit without a break:
the older server and worker run; this version migrates the schema; both versions run beside each other, each SDK on each
server; the older server stops. Every submission must be accepted, and every job must end well.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import asyncpg
import httpx

from tests.faults.plans import new_id
from tests.support.processes import BIN, Running, RunningServer, start_process, wait_until_ready
from tests.support.services import free_port, own_postgres
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bootstrap" / "revisions"
PACKAGES = ("quorra-proto", "quorra-server", "quorra-worker-sdk")
API_KEY = "test-key-of-thirty-two-characters-or-more"
SUBMIT_PAUSE_SECONDS = 0.02
REPEATABLE = (429, 503)
END_SECONDS_MAX = 60.0
# On the older server alone, both SDKs crossed, and on this server alone.
WORKERS = ("old", "new-on-old", "old-on-new", "new")
WORKER = """
from quorra_worker_sdk import Worker

worker = Worker()

@worker.job("hello")
async def hello(n: int = 0) -> int:
    return n
"""


class RevisionMissing(Exception):
    """The revision is not in this clone; the message says so."""


@dataclass(frozen=True, slots=True)
class Version:
    """Where the programs of one version are."""

    name: str
    programs: Path


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        refused: Answers that the retry rule does not cover.
        stall_seconds: The longest time in which no submission was accepted.
        by_worker: Reports of each worker: older and newer ones on older and newer servers.
        old_server_on_new_schema: Why the older server says that it is not ready once the schema is migrated.
    """

    submitted: int = 0
    succeeded: int = 0
    refused: list[str] = field(default_factory=list)
    stall_seconds: float = 0.0
    migrate_seconds: float = 0.0
    by_worker: dict[str, int] = field(default_factory=dict)
    old_server_on_new_schema: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Say whether nothing was refused or lost, and every worker had work."""
        is_complete = bool(self.submitted) and self.submitted == self.succeeded
        return is_complete and not self.refused and set(WORKERS) <= self.by_worker.keys()


def build(revision: str) -> Version:
    """Build the packages of a revision into an environment of their own, once.

    Raises:
        RevisionMissing: There is no history, or the revision is not in it.
    """
    named = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if named.returncode:
        raise RevisionMissing(f"revision {revision} is not in this clone (a shallow one, or without history)")
    home = CACHE / named.stdout.strip()
    programs = home / "venv" / "bin"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        archive = home / "source.tar"
        subprocess.run(["git", "archive", "-o", archive, named.stdout.strip()], cwd=ROOT, check=True)
        with tarfile.open(archive) as source:
            source.extractall(home / "source", filter="data")
        uv = str(BIN / "uv") if (BIN / "uv").exists() else "uv"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home / "venv"], check=True)
        folders = [str(home / "source" / "packages" / package) for package in PACKAGES]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", programs / "python", *folders], check=True)
        (home / "ready").touch()
    return Version(named.stdout.strip()[:7], programs)


def run_upgrade(old: Version, *, seconds: float) -> Report:
    """Replace the older version by this one under load; each stage takes so many seconds."""
    new, report = Version("this", BIN), Report()
    with ExitStack() as stack:
        postgres = stack.enter_context(own_postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quorra-upgrade-")))
        (folder / "upgrade_worker.py").write_text(WORKER)
        _migrate(old, postgres.dsn)
        old_server = stack.enter_context(_server(old, postgres.dsn))
        old_worker = stack.enter_context(_worker(old, old_server, folder, "old"))
        clients = stack.enter_context(_submitting([old_server.http_url], report))
        time.sleep(seconds)

        began = time.monotonic()
        _migrate(new, postgres.dsn)
        report.migrate_seconds = round(time.monotonic() - began, 3)
        time.sleep(seconds)
        report.old_server_on_new_schema = httpx.get(f"{old_server.http_url}/readyz").json().get("problems", [])

        new_server = stack.enter_context(_server(new, postgres.dsn))
        clients.urls.append(new_server.http_url)
        crossing = [
            stack.enter_context(_worker(new, old_server, folder, "new-on-old")),
            stack.enter_context(_worker(old, new_server, folder, "old-on-new")),
        ]
        eventually_sync(
            lambda: {"new-on-old", "old-on-new"} <= asyncio.run(_count_by_worker(postgres.dsn)).keys(),
            "both workers that cross versions have run jobs",
            timeout=60,
        )
        time.sleep(seconds)

        clients.urls.remove(old_server.http_url)
        for running in (old_worker, crossing[0], old_server):
            running.terminate()
        stack.enter_context(_worker(new, new_server, folder, "new"))
        time.sleep(seconds)

        clients.stop()
        report.submitted, report.stall_seconds = len(clients.accepted), round(clients.stall_seconds, 3)
        _await_ends(new_server, clients.accepted, report)
        report.by_worker = asyncio.run(_count_by_worker(postgres.dsn))
    return report


class _Clients(threading.Thread):
    """Submits one job after the other, at any of some servers, and follows the retry rule."""

    def __init__(self, urls: list[str], report: Report) -> None:
        super().__init__(daemon=True)
        self.urls, self.accepted, self.stall_seconds = urls, list[str](), 0.0
        self._report, self._is_over = report, threading.Event()

    def run(self) -> None:
        accepted_at, turn = time.monotonic(), 0
        with httpx.Client(headers={"X-API-Key": API_KEY}, timeout=5) as http:
            while not self._is_over.is_set():
                turn += 1
                if self._submit(http, turn):
                    self.stall_seconds = max(self.stall_seconds, time.monotonic() - accepted_at)
                    accepted_at = time.monotonic()
                self._is_over.wait(SUBMIT_PAUSE_SECONDS)

    def _submit(self, http: httpx.Client, turn: int) -> bool:
        job = new_id()
        while True:
            urls = list(self.urls)
            url = urls[turn % len(urls)]
            try:
                answer = http.post(f"{url}/v1/jobs", json={"id": job, "type": "hello", "payload": {"n": turn}})
            except httpx.HTTPError:
                turn += 1
                time.sleep(SUBMIT_PAUSE_SECONDS)
                continue
            if answer.is_success:
                self.accepted.append(job)
                return True
            if answer.status_code not in REPEATABLE:
                self._report.refused.append(f"{answer.status_code} {answer.text[:200]}")
                return False
            time.sleep(SUBMIT_PAUSE_SECONDS)

    def stop(self) -> None:
        self._is_over.set()
        self.join()


@contextmanager
def _submitting(urls: list[str], report: Report) -> Iterator[_Clients]:
    clients = _Clients(urls, report)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()


def _migrate(version: Version, database_url: str) -> None:
    with start_process([str(version.programs / "quorra-server"), "migrate"], {"DATABASE_URL": database_url}) as running:
        code = running.process.wait(END_SECONDS_MAX)
        assert code == 0, running.log


@contextmanager
def _server(version: Version, database_url: str) -> Iterator[RunningServer]:
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "QUORRA_ENV": "test",
        "DATABASE_URL": database_url,
        "QUORRA_API_KEY": API_KEY,
        "QUORRA_HTTP_ADDR": http,
        "QUORRA_GRPC_ADDR": grpc,
        "QUORRA_NODE_NAME": f"node-{version.name}",
    }
    with start_process([str(version.programs / "quorra-server")], settings) as running:
        server = RunningServer(running.process, running.log_path, http_url=f"http://{http}", grpc_address=grpc)
        wait_until_ready(server)
        yield server


@contextmanager
def _worker(version: Version, server: RunningServer, folder: Path, name: str) -> Iterator[Running]:
    settings = {**server.environment, "QUORRA_WORKER_ID": name}
    command = [str(version.programs / "quorra-worker"), "upgrade_worker:worker"]
    with start_process(command, settings, cwd=folder) as running:
        yield running


def _await_ends(server: RunningServer, jobs: list[str], report: Report) -> None:
    deadline, left = time.monotonic() + END_SECONDS_MAX, list(jobs)
    with httpx.Client(base_url=server.http_url, headers=server.headers, timeout=20) as http:
        while left and time.monotonic() < deadline:
            left = [job for job in left if http.get(f"/v1/jobs/{job}").json().get("status") != "succeeded"]
    report.succeeded = len(jobs) - len(left)


async def _count_by_worker(database_url: str) -> dict[str, int]:
    connection = await asyncpg.connect(database_url)
    try:
        # A worker adds what tells its processes apart.
        rows = await connection.fetch(
            "SELECT regexp_replace(worker, '-[^-]*$', '') AS name, count(*) FROM quorra.outcomes GROUP BY name"
        )
        return {row["name"]: row["count"] for row in rows}
    finally:
        await connection.close()


def main() -> int:
    """Run and report; 0 if nothing was refused or lost."""
    parser = argparse.ArgumentParser(
        prog="upgrade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="revision", required=True, help="a revision of this repository")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each of the four stages takes (5)")
    options = parser.parse_args()
    try:
        old = build(options.revision)
    except RevisionMissing as error:
        print(f"upgrade: skipped: {error}", file=sys.stderr)
        return 3
    report = run_upgrade(old, seconds=options.seconds)
    print(json.dumps(asdict(report), indent=2))
    return 0 if report.is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
