"""Verbs of jobs."""

import json
import math
import re
import time
from typing import Any

import click

from quorractl import output
from quorractl.commands.common import Session, confirm, filter_of, filter_options, json_argument, output_option
from quorractl.commands.importing import import_jobs
from quorractl.errors import EndedBadly, TimedOut, UsageMistake

COLUMNS = ("id", "type", "queue", "status", "attempts", "created_at", "last_error")
WAIT_STEP_SECONDS = 30
TERMINAL = ("succeeded", "dead", "cancelled")
UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.group()
def job() -> None:
    """Submit, read and change jobs."""


@job.command()
@click.argument("type_", metavar="TYPE")
@click.option("-d", "--data", default="{}", metavar="JSON|@FILE|-", help="The payload: a JSON object (default {}).")
@click.option("--queue", "-q", help="Queue (default: default).")
@click.option("--priority", type=int, help="Higher runs first (default 0).")
@click.option("--delay", metavar="DURATION", help="Run after this time, such as 90s, 5m or 2h.")
@click.option("--at", "run_at", metavar="RFC3339", help="Run at this time.")
@click.option("--max-retries", type=int, help="Runs after the first one (default 3).")
@click.option("--unique-key", help="At most one live job has it.")
@click.option("--idempotency-key", help="Makes repeating this command safe.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--wait", is_flag=True, help="Wait until the job has ended.")
@click.option("--timeout", metavar="DURATION", help="With --wait: how long at most.")
@output_option
@click.pass_obj
def create(session: Session, /, type_: str, data: str, wait: bool, timeout: str | None, **options: Any) -> None:
    """Submit a job of TYPE."""
    key = options.pop("idempotency_key")
    fields = {name: value for name, value in options.items() if value not in (None, ())}
    if "delay" in fields:
        fields["delay_seconds"] = seconds_of(fields.pop("delay"), "--delay")
    body = json.dumps({"type": type_, **fields}).encode()
    # The payload is put in as text: its numbers and the order of its keys stay as they were typed.
    body = body[:-1] + b', "payload": ' + json_argument(data, "--data") + b"}"
    submitted = session.client.submit_job(body, key)
    if submitted.get("existing"):
        output.say("The job existed already.")
    if wait:
        _wait(session, submitted["id"], timeout)
    else:
        output.show_one(submitted, session.form)


@job.command()
@click.argument("job_id", metavar="ID")
@output_option
@click.pass_obj
def get(session: Session, job_id: str) -> None:
    """Show a job."""
    output.show_one(session.client.get_job(job_id), session.form)


@job.command(name="list")
@filter_options
@click.option(
    "--where", metavar="KEY=VALUE", multiple=True, help="Only jobs whose payload has this; several are and-ed."
)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Jobs at most.")
@output_option
@click.pass_obj
def list_(session: Session, /, where: tuple[str, ...], limit: int, **options: Any) -> None:
    """List jobs, newest first."""
    params = filter_of(options)
    if where:
        values = dict(_pair(text) for text in where)
        params["payload"] = "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in values.items()) + "}"
    output.show_rows(session.client.list_jobs("/v1/jobs", params, limit), COLUMNS, session.form)


def _pair(text: str) -> tuple[str, str]:
    """Return a key and its value as JSON text: as it was typed, or a string if it is no JSON."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageMistake(f"--where {text!r} has no value; write it as key=value.")
    try:
        # Numbers stay text, since Python reads none of over 4,300 digits.
        json.loads(value, parse_int=str)
    except RecursionError:
        pass  # It is for the server to refuse.
    except ValueError:
        value = json.dumps(value)
    return key, value


@job.command()
@click.argument("job_id", metavar="ID")
@output_option
@click.pass_obj
def history(session: Session, job_id: str) -> None:
    """Show each lease of a job and how it ended."""
    columns = ("ended_at", "outcome", "attempt", "delivery", "worker", "error")
    attempts = session.client.read("v1", "jobs", job_id, "history", needs="attempts")["attempts"]
    output.show_rows(attempts, columns, session.form, name="outcome")


@job.command()
@click.argument("job_id", metavar="ID")
@output_option
@click.pass_obj
def logs(session: Session, job_id: str) -> None:
    """Show what a job's handlers logged."""
    lines = session.client.read("v1", "jobs", job_id, "logs", needs="lines")["lines"]
    output.show_rows(lines, ("at", "level", "message"), session.form, name="message")


@job.command()
@click.argument("job_id", metavar="ID")
@click.option("--timeout", metavar="DURATION", help="How long at most, such as 5m (default: until it ends).")
@output_option
@click.pass_obj
def wait(session: Session, job_id: str, timeout: str | None) -> None:
    """Wait until a job has ended; exit code 8 if it ended badly, 7 if it did not end in time."""
    _wait(session, job_id, timeout)


def _wait(session: Session, job_id: str, timeout: str | None) -> None:
    deadline = None if timeout is None else time.monotonic() + seconds_of(timeout, "--timeout")
    while True:
        left = WAIT_STEP_SECONDS if deadline is None else math.ceil(deadline - time.monotonic())
        found = session.client.get_job(job_id, max(0, min(left, WAIT_STEP_SECONDS)))
        if found["status"] in TERMINAL:
            break
        if left <= 0:
            raise TimedOut(f"Job {job_id} is {found['status']}; it goes on. Wait again with `quorractl wait {job_id}`.")
    output.show_one(found, session.form)
    if found["status"] != "succeeded":
        raise EndedBadly(f"Job {job_id} is {found['status']}: {found['last_error'] or 'no error was recorded'}")


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1)
@filter_options
@click.option("--filter", "by_filter", is_flag=True, help="All jobs that match the options instead of IDs.")
@click.option("--reason", help="Kept with the job.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_obj
def cancel(session: Session, /, ids: tuple[str, ...], reason: str | None, **options: Any) -> None:
    """Cancel jobs; cancelling twice is fine."""
    _change(session, "cancel", ids, {"reason": reason} if reason else {}, options)


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1)
@filter_options
@click.option("--filter", "by_filter", is_flag=True, help="All jobs that match the options instead of IDs.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_obj
def retry(session: Session, /, ids: tuple[str, ...], **options: Any) -> None:
    """Run failed or delayed jobs now; replay dead ones."""
    _change(session, "retry", ids, {}, options)


def _change(session: Session, verb: str, ids: tuple[str, ...], body: dict[str, Any], options: dict[str, Any]) -> None:
    if bool(ids) == options["by_filter"]:
        raise UsageMistake(f"Name jobs by ID, or all that match with --filter: quorractl {verb} ID...")
    if ids:
        _change_each(session, verb, ids, body)
        return
    request = {"filter": filter_of(options), **body}
    counted = session.client.change_matching(verb, {**request, "dry_run": True})
    if options["dry_run"]:
        output.show_one(counted, session.form, name="matched")
        return
    confirm(f"{verb.capitalize()} {counted['matched']} jobs?", yes=options["yes"])
    output.show_one(session.client.change_matching(verb, request), session.form, name="changed")


def _change_each(session: Session, verb: str, ids: tuple[str, ...], body: dict[str, Any]) -> None:
    """Change jobs one after another up to one that fails; those before it are changed, and shown."""
    changed: list[output.Row] = []
    try:
        for job_id in ids:
            changed.append(session.client.change_job(job_id, verb, body))  # noqa: PERF401 - an error leaves those before
    finally:
        if changed:
            output.show_rows(changed, COLUMNS, session.form)
        if 0 < len(changed) < len(ids):
            output.say(
                f"{len(changed)} of {len(ids)} jobs were changed; see to {ids[len(changed)]}, and repeat from it."
            )


def seconds_of(text: str, what: str) -> int:
    """Return the seconds of a duration such as `90s`, `5m`, `2h` or `1d`.

    Raises:
        UsageMistake: It cannot be read.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])?", text, re.ASCII)
    if match is None:
        raise UsageMistake(f"{what} {text!r} is not a duration; write it like 90s, 5m, 2h or 1d.")
    return int(match[1]) * UNITS_SECONDS[match[2] or "s"]


job.add_command(import_jobs)
