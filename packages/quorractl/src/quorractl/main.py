"""`quorractl`: the group of all verbs, and the exit codes."""

import contextlib
import sys
from importlib.metadata import version
from typing import Any

import click
from click.shell_completion import get_completion_class

from quorractl import output
from quorractl.commands import dead, job, queue, server
from quorractl.commands.common import Session, output_option
from quorractl.commands.importing import import_jobs
from quorractl.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, CommandError, UsageMistake

SHELLS = ("bash", "zsh", "fish")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("quorractl"), prog_name="quorractl")
@click.option("--server", metavar="URL", help="The server (default: QUORRA_SERVER, the context, or localhost).")
@click.option("--context", metavar="NAME", help="A context instead of the one in use.")
@output_option
@click.pass_obj
def cli(session: Session, server: str | None, context: str | None) -> None:
    """Operate a Quorra job queue from the command line."""
    session.server = server
    session.context = context


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a completion script; for example: source <(quorractl completion bash)."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "quorractl", "_QUORRACTL_COMPLETE").source())


for noun in (job.job, queue.queue, dead.dead, server.server, server.worker, server.context):
    cli.add_command(noun)
# The short forms.
for verb in (job.create, job.get, job.list_, job.cancel, job.retry, job.wait, import_jobs, queue.stats):
    cli.add_command(verb)
cli.add_command(queue.list_, name="queues")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    session = Session()
    with contextlib.closing(session):
        exit_code = _run(session, sys.argv[1:] if arguments is None else arguments)
    output.finish()
    return exit_code


def _run(session: Session, arguments: list[str]) -> int:
    try:
        _check_encoding(arguments)
        result: Any = cli.main(arguments, prog_name="quorractl", obj=session, standalone_mode=False)
    except CommandError as error:
        output.say(f"quorractl: {error}")
        return error.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        output.say("Interrupted.")
        return EXIT_INTERRUPTED
    except SystemExit:
        # Click leaves this way when whoever reads our output has seen enough, and when it has completed a word.
        return EXIT_OK
    return result if isinstance(result, int) else EXIT_OK


def _check_encoding(arguments: list[str]) -> None:
    """Refuse bytes that are not UTF-8, which neither a path nor JSON can carry; Python lets them in as half surrogates.

    Raises:
        UsageMistake: An argument has some. It is not repeated, since it may be a key.
    """
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UsageMistake(
                f"Argument {number} is not UTF-8; type it as UTF-8. A file whose name is not can come as standard "
                "input (-)."
            ) from error


if __name__ == "__main__":
    raise SystemExit(main())
