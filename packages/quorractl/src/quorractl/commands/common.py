"""What the verbs share: the session of one invocation, and options that several of them take."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from quorractl import output
from quorractl.client import Client
from quorractl.contexts import resolve
from quorractl.errors import UsageMistake

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """One invocation: where to go and how to show what comes back."""

    server: str | None = None
    context: str | None = None
    form: str = "table"
    _client: Client | None = None

    @property
    def client(self) -> Client:
        """The client, made when it is first needed."""
        if self._client is None:
            self._client = Client(resolve(self.server, self.context))
        return self._client

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()


def output_option(function: Function) -> Function:
    """Add `-o`, which may stand before or behind the verb."""

    def choose(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value:
            context.find_object(Session).form = value  # type: ignore[union-attr]

    return click.option(
        "-o",
        "--output",
        type=click.Choice(output.FORMATS),
        expose_value=False,
        callback=choose,
        help="How to show data (default: table).",
    )(function)


def filter_options(function: Function) -> Function:
    """Add the options that say which jobs are meant."""
    for option in (
        click.option("--status", help="pending, leased, processing, failed, succeeded, dead or cancelled."),
        click.option("--queue", "-q", help="Only jobs of this queue."),
        click.option("--type", "type_", help="Only jobs of this type."),
        click.option("--tag", help="Only jobs with this tag."),
        click.option("--since", "created_after", metavar="RFC3339", help="Only jobs created at or after this time."),
        click.option("--until", "created_before", metavar="RFC3339", help="Only jobs created before this time."),
    ):
        function = option(function)
    return function


def filter_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the filter that the options name; an empty value is one too, for the server to refuse."""
    names = {"status", "queue", "type_", "tag", "created_after", "created_before"}
    return {name.rstrip("_"): value for name, value in values.items() if name in names and value is not None}


def json_argument(text: str, what: str) -> bytes:
    """Return JSON text from an argument: literal, `@file`, or `-` for standard input. It stays as it was typed.

    Raises:
        UsageMistake: It is not JSON.
    """
    if text == "-":
        raw = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as error:
            raise UsageMistake(f"{what}: {error}.") from error
    else:
        raw = text.encode()
    try:
        # Numbers stay text, since Python reads none of over 4,300 digits.
        json.loads(raw, parse_int=str)
    except (ValueError, RecursionError) as error:
        raise UsageMistake(f'{what} is not JSON: {error}. Quote it for the shell: -d \'{{"to": "a@b.c"}}\'.') from error
    return raw.strip()


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something large, on a terminal only; elsewhere `--yes` is needed.

    Raises:
        UsageMistake: There is nobody to ask, and `--yes` was not given.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        can_count = any(option.name == "dry_run" for option in click.get_current_context().command.params)
        raise UsageMistake(f"{question} Repeat with --yes{', or look first with --dry-run' if can_count else ''}.")
    click.confirm(question, abort=True, err=True)
