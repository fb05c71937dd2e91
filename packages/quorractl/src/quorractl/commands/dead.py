"""Verbs of the dead-letter queue."""

from typing import Any

import click

from quorractl import output
from quorractl.commands.common import Session, confirm, json_argument, output_option
from quorractl.commands.job import COLUMNS
from quorractl.errors import UsageMistake


@click.group()
def dead() -> None:
    """Look at dead jobs, replay and purge them."""


@dead.command(name="list")
@click.option("--queue", "-q", help="Only jobs of this queue.")
@click.option("--type", "type_", help="Only jobs of this type.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Jobs at most.")
@output_option
@click.pass_obj
def list_(session: Session, queue: str | None, type_: str | None, limit: int) -> None:
    """List dead jobs, last died first."""
    params = {name: value for name, value in (("queue", queue), ("type", type_)) if value is not None}
    output.show_rows(session.client.list_jobs("/v1/dead", params, limit), COLUMNS, session.form)


@dead.command()
@click.argument("job_id", metavar="ID")
@output_option
@click.pass_obj
def show(session: Session, job_id: str) -> None:
    """Show a dead job with its error per attempt."""
    output.show_one(session.client.get_job(job_id), session.form)


@dead.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("-d", "--data", metavar="JSON|@FILE|-", help="Another payload for all of them.")
@output_option
@click.pass_obj
def replay(session: Session, ids: tuple[str, ...], data: str | None) -> None:
    """Give dead jobs a new life under their ids."""
    payload = json_argument(data, "--data") if data is not None else None
    answer = session.client.replay_dead(list(ids), payload)
    output.show_rows(answer["jobs"], COLUMNS, session.form)
    if answer["replayed"] < len(ids):
        output.say(f"{len(ids) - answer['replayed']} of {len(ids)} were not dead, and are left as they are.")


@dead.command()
@click.argument("ids", metavar="ID...", nargs=-1)
@click.option("--before", metavar="RFC3339", help="All dead jobs that were created before this time.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_obj
def purge(session: Session, ids: tuple[str, ...], before: str | None, yes: bool) -> None:
    """Remove dead jobs for good."""
    if bool(ids) == bool(before):
        raise UsageMistake("Name jobs by ID, or all old ones with --before TIME.")
    body: dict[str, Any] = {"ids": list(ids)} if ids else {"before": before}
    confirm(f"Remove {len(ids) if ids else 'all matching'} dead jobs for good?", yes=yes)
    answer = session.client.purge_dead(body)
    purged = answer["purged"]
    # A server stops in good time and says that there are more: each answer stands for what is gone for good.
    while answer.get("more"):
        output.say(f"{purged:,} removed so far ...")
        answer = session.client.purge_dead(body)
        purged += answer["purged"]
    output.show_one({"purged": purged}, session.form, name="purged")
