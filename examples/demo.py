"""The main job: a server, two workers, three kinds of jobs for real, and a look at every effect.

Run with: hatch run demo [--pictures DIR] [--jobs N] [--keep]
"""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.checks import Check, check_mails, check_thumbnails, check_webhooks
from examples.pictures import NoPictures, draw_pictures, pictures_in
from examples.receivers import MailServer, WebhookReceiver, free_port

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WORKERS = 2
THUMBNAIL_WIDTH = 160
DELAY_SECONDS = 3
READY_SECONDS_MAX = 180
RUN_SECONDS_MAX = 120
STOP_SECONDS_MAX = 20
# File systems allow 255 bytes for a name, and a character has up to four.
STEM_CHARACTERS_MAX = 50
EXIT_USAGE = 2
PORTS = {"QUORRA_HTTP_ADDR": 8080, "QUORRA_GRPC_ADDR": 50051}
TERMINAL = {"succeeded", "dead", "cancelled"}


@dataclass(slots=True)
class Plan:
    """The jobs to submit, and what the world must look like afterwards."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    mails: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    thumbnails: list[Path] = field(default_factory=list)


def main() -> int:
    options = _options()
    console = Console()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quorra-demo-")))
        try:
            pictures = _pictures(options, scratch, console)
        except NoPictures as error:
            console.print(f"[red]{escape(str(error))}[/red]")
            return EXIT_USAGE
        secret = secrets.token_bytes(32)
        mail_server = stack.enter_context(MailServer(scratch / "mailbox"))
        receiver = stack.enter_context(WebhookReceiver(secret.hex().encode()))
        environment = _environment(scratch, mail_server.address, secret.hex())
        console.print("Starting a server with a PostgreSQL of its own, and two workers ...")
        api = stack.enter_context(_api(environment))
        _wait_until_ready(api, stack.enter_context(_server(environment, scratch)))
        for number in range(1, WORKERS + 1):
            stack.enter_context(_process("quorra-worker", ["examples.workers:worker"], environment, scratch, number))
        plan = _plan(options, scratch, receiver.url, pictures)
        began = time.monotonic()
        ids = _submit(api, plan)
        jobs = _watch(api, ids, console)
        seconds = time.monotonic() - began
        checks = [
            check_mails(plan.mails, mail_server.mails()),
            check_webhooks(plan.events, receiver.received),
            check_thumbnails(plan.thumbnails, plan.pictures, THUMBNAIL_WIDTH),
            *_check_jobs(jobs, plan, len(receiver.received.turned_away)),
        ]
        _show(console, checks, jobs, seconds)
        if options.keep:
            _keep(console, environment)
    return 0 if all(check.is_good for check in checks) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="resize the pictures in this folder")
    parser.add_argument(
        "--jobs", type=int, default=40, metavar="N", help="mails, webhooks and drawn pictures each (40)"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    return parser.parse_args()


def _pictures(options: argparse.Namespace, scratch: Path, console: Console) -> list[Path]:
    if options.pictures is None:
        return draw_pictures(scratch / "pictures", options.jobs)
    found = pictures_in(options.pictures)
    for reason in found.left_out:
        console.print(f"[yellow]left out:[/yellow] {escape(reason)}")
    return found.pictures


def _environment(scratch: Path, smtp_address: str, secret: str) -> dict[str, str]:
    """Return the environment of all processes; a port that is taken is replaced by a free one."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("QUORRA_", "DATABASE_", "REDIS_"))
    }
    return {
        **kept,
        **{name: f"127.0.0.1:{free_port(wished)}" for name, wished in PORTS.items()},
        "QUORRA_API_KEY": secrets.token_hex(16),
        "QUORRA_STATE_DIR": str(scratch / "state"),
        "SMTP_ADDR": smtp_address,
        "WEBHOOK_SECRET": secret,
    }


@contextlib.contextmanager
def _api(environment: dict[str, str]) -> Iterator[httpx.Client]:
    headers = {"X-API-Key": environment["QUORRA_API_KEY"]}
    with httpx.Client(base_url=f"http://{environment['QUORRA_HTTP_ADDR']}", headers=headers, timeout=30) as client:
        yield client


def _server(environment: dict[str, str], scratch: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return _process("quorra-server", ["dev"], environment, scratch, 0)


@contextlib.contextmanager
def _process(
    program: str, arguments: list[str], environment: dict[str, str], scratch: Path, number: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the demo; its log is shown if it fails."""
    log = scratch / f"{program}-{number}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [BIN / program, *arguments], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    except BaseException:
        print(f"--- {program}, last lines of its log\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(api: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {server.returncode}; its log says why")
        with contextlib.suppress(httpx.TransportError):
            if api.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"the server is not ready after {READY_SECONDS_MAX} s")


def _plan(options: argparse.Namespace, scratch: Path, webhook_url: str, pictures: list[Path]) -> Plan:
    plan = Plan()
    for number in range(options.jobs):
        mail = (f"person{number}@example.com", f"Hello {number}", f"This is mail number {number}.")
        plan.mails.append(mail)
        plan.jobs.append(_mail_job(*mail))
        plan.events.append(number)
        event = {"number": number, "kind": "order.paid"}
        plan.jobs.append(
            {"type": "webhook_call", "queue": "webhooks", "payload": {"url": webhook_url, "event": event},
             "max_retries": 5, "backoff": {"kind": "fixed", "base_seconds": 1}}
        )  # fmt: skip
    for number, source in enumerate(pictures):
        # Two pictures may differ in the ending of their names only.
        target = scratch / f"{number:04d}-{source.stem[:STEM_CHARACTERS_MAX]}-thumbnail.jpg"
        plan.pictures.append(source)
        plan.thumbnails.append(target)
        payload = {"source": str(source.resolve()), "target": str(target), "width": THUMBNAIL_WIDTH}
        plan.jobs.append({"type": "image_resize", "queue": "images", "payload": payload})
    late = ("late@example.com", "Later", f"This mail was delayed by {DELAY_SECONDS} s.")
    plan.mails.append(late)
    plan.jobs.append({**_mail_job(*late), "delay_seconds": DELAY_SECONDS, "tags": ["delayed"]})
    plan.jobs.append({**_mail_job("not-an-address", "Nobody", "This job must end dead."), "tags": ["dead"]})
    return plan


def _mail_job(to: str, subject: str, body: str) -> dict[str, Any]:
    return {"type": "email_send", "queue": "email", "payload": {"to": to, "subject": subject, "body": body}}


def _submit(api: httpx.Client, plan: Plan) -> list[str]:
    reply = api.post("/v1/jobs/batch", json={"jobs": plan.jobs})
    reply.raise_for_status()
    return [job["id"] for job in reply.json()["jobs"]]


def _watch(api: httpx.Client, ids: list[str], console: Console) -> list[dict[str, Any]]:
    """Show progress until every job has ended, and return all jobs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + RUN_SECONDS_MAX
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("jobs ended", total=len(ids))
        while True:
            counts = dict.fromkeys(TERMINAL, 0)
            for entry in api.get("/v1/queues").json()["queues"]:
                if entry["status"] in TERMINAL:
                    counts[entry["status"]] += entry["count"]
            progress.update(task, completed=sum(counts.values()))
            if sum(counts.values()) >= len(ids) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
    return [api.get(f"/v1/jobs/{job_id}").json() for job_id in ids]


def _check_jobs(jobs: list[dict[str, Any]], plan: Plan, turned_away: int) -> list[Check]:
    bad = [job for job in jobs if "dead" in job["tags"]]
    good = [job for job in jobs if "dead" not in job["tags"]]
    late = [job for job in good if "delayed" in job["tags"]]
    retried = [job for job in good if job["type"] == "webhook_call" and job["attempts"] > 1]
    unfinished = tuple(f"{job['type']} {job['id']} is {job['status']}" for job in good if job["status"] != "succeeded")
    waited = [_seconds(job["created_at"], job["started_at"]) for job in late if job["started_at"]]
    return [
        Check("jobs succeeded", len(plan.jobs) - 1, len(good) - len(unfinished), unfinished[:5]),
        Check("webhooks that were retried after a 503", turned_away, len(retried)),
        Check(f"delayed jobs that waited {DELAY_SECONDS} s", 1, sum(seconds >= DELAY_SECONDS for seconds in waited)),
        Check("jobs that had to end dead, with their error", 1,
              sum(job["status"] == "dead" and "not an address" in (job["last_error"] or "") for job in bad)),
    ]  # fmt: skip


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _show(console: Console, checks: list[Check], jobs: list[dict[str, Any]], seconds: float) -> None:
    times = Table(title="What happened", title_justify="left")
    for heading in ("type", "jobs", "attempts", "wait p50", "run p50"):
        times.add_column(heading, justify="left" if heading == "type" else "right")
    for kind in dict.fromkeys(job["type"] for job in jobs):
        of_kind = [job for job in jobs if job["type"] == kind]
        started = [job for job in of_kind if job["started_at"] and job["finished_at"]]
        waits = sorted(_seconds(job["created_at"], job["started_at"]) for job in started)
        runs = sorted(_seconds(job["started_at"], job["finished_at"]) for job in started)
        attempts = sum(job["attempts"] for job in of_kind)
        times.add_row(kind, str(len(of_kind)), str(attempts), _median(waits), _median(runs))
    console.print(times)
    table = Table(title=f"Checked ({seconds:.1f} s for {len(jobs)} jobs)", title_justify="left")
    for heading in ("", "effect", "wanted", "found"):
        table.add_column(heading)
    for check in checks:
        mark = "[green]ok[/green]" if check.is_good else "[red]WRONG[/red]"
        table.add_row(mark, check.what, str(check.wanted), str(check.found))
    console.print(table)
    for check in checks:
        for problem in check.problems[:5]:
            console.print(f"[red]{check.what}:[/red] {problem}")


def _median(values: list[float]) -> str:
    return f"{values[len(values) // 2] * 1000:.0f} ms" if values else "-"


def _keep(console: Console, environment: dict[str, str]) -> None:
    console.print(
        f"Dashboard and API: http://{environment['QUORRA_HTTP_ADDR']}   gRPC: {environment['QUORRA_GRPC_ADDR']}"
    )
    console.print(f"API key: {environment['QUORRA_API_KEY']}   (Ctrl-C ends it all)")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    raise SystemExit(main())
