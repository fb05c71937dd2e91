"""`hatch run upgrade --from REVISION`: an older version is replaced by this one under load, server by server.

The packages of the revision are built into an environment of their own. Then, while clients submit without a break:
the older server and worker run; this version migrates the schema; both versions run beside each other, each SDK on each
server; the older server stops. Every submission must be accepted, and every job must end as it should: some are due
later, some fail until they are dead.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
# Together they submit two hundred jobs a second, on a machine that keeps up.
CLIENTS = 4
JOBS_PER_BATCH = 4
SUBMIT_PAUSE_SECONDS = 0.08
REPEAT_PAUSE_SECONDS = 0.02
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


@worker.job("doomed")
async def doomed(n: int = 0) -> int:
    raise ValueError("as planned")
"""
# What every tenth submission is instead of a job that is due at once and succeeds.
DELAYED: dict[str, Any] = {"delay_seconds": 1}
DOOMED: dict[str, Any] = {"type": "doomed", "max_retries": 1, "backoff": {"kind": "fixed", "base_seconds": 0.1}}


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
        submitted: Jobs that were accepted, in all and a second.
        succeeded: Of these, jobs that were to succeed, and did.
        dead: Jobs that were to die, and did.
        amiss: Jobs that did not end as they should, with the status that they have.
        refused: Answers that the retry rule does not cover.
        stall_seconds: The longest time in which no submission of any client was accepted.
        wait_seconds: The longest time that one submission took, with its repeats.
        by_worker: Reports of each worker: older and newer ones on older and newer servers.
        old_server_on_new_schema: Why the older server says that it is not ready once the schema is migrated.
        old_server_errors: Lines of its log that speak of a bug, or of a loop's round that failed.
    """

    submitted: int = 0
    submitted_per_second: float = 0.0
    succeeded: int = 0
    dead: int = 0
    amiss: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    stall_seconds: float = 0.0
    wait_seconds: float = 0.0
    migrate_seconds: float = 0.0
    by_worker: dict[str, int] = field(default_factory=dict)
    old_server_on_new_schema: list[str] = field(default_factory=list)
    old_server_errors: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Say whether nothing was refused or lost, every worker had work, and the older server no complaint."""
        is_complete = bool(self.succeeded and self.dead) and not self.amiss and not self.refused
        is_content = not self.old_server_on_new_schema and not self.old_server_errors
        return is_complete and is_content and set(WORKERS) <= self.by_worker.keys()


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
        clients = stack.enter_context(_submitting([old_server.http_url]))
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
        report.old_server_errors = _errors(old_server)
        stack.enter_context(_worker(new, new_server, folder, "new"))
        time.sleep(seconds)

        clients.stop()
        clients.tell(report)
        _await_ends(new_server, clients.wanted, report)
        report.by_worker = asyncio.run(_count_by_worker(postgres.dsn))
    return report


class _Clients:
    """Submit jobs, a few at a time, at any of some servers, and follow the retry rule.

    Attributes:
        urls: The servers; may change at any time.
        wanted: How each accepted job should end, by id.
    """

    def __init__(self, urls: list[str]) -> None:
        self.urls, self.wanted = urls, dict[str, str]()
        self._refused, self._waits = list[str](), list[float]()
        self._accepted_at, self._is_over = [time.monotonic()], threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def tell(self, report: Report) -> None:
        """Write down what the clients saw."""
        report.refused, report.submitted = self._refused, len(self.wanted)
        moments = sorted(self._accepted_at)
        report.submitted_per_second = round(len(self.wanted) / (moments[-1] - moments[0]), 1)
        report.stall_seconds = round(max(after - before for before, after in itertools.pairwise(moments)), 3)
        report.wait_seconds = round(max(self._waits), 3)

    def _run(self, number: int) -> None:
        with httpx.Client(headers={"X-API-Key": API_KEY}, timeout=5) as http:
            for turn in itertools.count(number, CLIENTS):
                if self._is_over.wait(SUBMIT_PAUSE_SECONDS):
                    return
                began_at = time.monotonic()
                self._submit(http, turn)
                self._waits.append(time.monotonic() - began_at)

    def _submit(self, http: httpx.Client, turn: int) -> None:
        jobs = [_job(turn * JOBS_PER_BATCH + place) for place in range(JOBS_PER_BATCH)]
        while not (answer := self._try(http, turn, jobs)):
            turn += 1
            time.sleep(REPEAT_PAUSE_SECONDS)
        if answer.is_success:
            self._accepted_at.append(time.monotonic())
            self.wanted.update({job["id"]: "dead" if job["type"] == "doomed" else "succeeded" for job in jobs})
        else:
            self._refused.append(f"{answer.status_code} {answer.text[:200]}")

    def _try(self, http: httpx.Client, turn: int, jobs: list[dict[str, Any]]) -> httpx.Response | None:
        """Submit jobs; None if they have to be submitted again."""
        urls = list(self.urls)
        try:
            answer = http.post(f"{urls[turn % len(urls)]}/v1/jobs/batch", json={"jobs": jobs})
        except httpx.HTTPError:
            return None
        return None if answer.status_code in REPEATABLE else answer


def _job(number: int) -> dict[str, Any]:
    special = {3: DELAYED, 7: DOOMED}.get(number % 10, {})
    return {"id": new_id(), "type": "hello", "payload": {"n": number}, **special}


@contextmanager
def _submitting(urls: list[str]) -> Iterator[_Clients]:
    clients = _Clients(urls)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()


def _errors(server: Running) -> list[str]:
    """Return the lines of a server's log that speak of a bug, or of a loop's round that failed."""
    lines = server.log.splitlines()
    return [line[:500] for line in lines if '"level": "error"' in line or "loop_round" in line]


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


def _await_ends(server: RunningServer, wanted: Mapping[str, str], report: Report) -> None:
    """Wait until every job has ended as it should, and write down which did not."""
    deadline, report.amiss = time.monotonic() + END_SECONDS_MAX, dict.fromkeys(wanted, "")
    with httpx.Client(base_url=server.http_url, headers=server.headers, timeout=20) as http:
        while report.amiss and time.monotonic() < deadline:
            found = {job: http.get(f"/v1/jobs/{job}").json().get("status", "unknown") for job in report.amiss}
            report.amiss = {job: status for job, status in found.items() if status != wanted[job]}
    ended = [status for job, status in wanted.items() if job not in report.amiss]
    report.succeeded, report.dead = ended.count("succeeded"), ended.count("dead")


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
