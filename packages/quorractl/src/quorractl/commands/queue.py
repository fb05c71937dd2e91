"""Verbs of queues."""

import click

from quorractl import output
from quorractl.commands.common import Session, output_option

STATUSES = ("pending", "leased", "processing", "failed", "succeeded", "dead", "cancelled")


@click.group()
def queue() -> None:
    """Look at queues."""


@queue.command(name="list")
@output_option
@click.pass_obj
def list_(session: Session) -> None:
    """Count jobs by queue and status."""
    counts = session.client.read("v1", "queues", needs="queues")["queues"]
    output.show_rows(counts, ("queue", "status", "count"), session.form, name="queue")


@queue.command()
@click.argument("name")
@output_option
@click.pass_obj
def get(session: Session, name: str) -> None:
    """Show the figures of a queue."""
    found = session.client.read("v1", "queues", name, needs="queue")
    output.show_one(found, session.form, name="queue")


@click.command()
@output_option
@click.pass_obj
def stats(session: Session) -> None:
    """Show a line for each queue with its jobs by status."""
    by_queue: dict[str, dict[str, object]] = {}
    for entry in session.client.read("v1", "queues", needs="queues")["queues"]:
        row = by_queue.setdefault(entry["queue"], {"queue": entry["queue"], **dict.fromkeys(STATUSES, 0)})
        row[entry["status"]] = entry["count"]
    output.show_rows(by_queue.values(), ("queue", *STATUSES), session.form, name="queue")
