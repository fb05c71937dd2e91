"""Verbs of servers, workers and contexts."""

import os

import click

from quorractl import contexts, output
from quorractl.client import Client, address_of
from quorractl.commands.common import Session, output_option
from quorractl.errors import CommandError, Unreachable, UsageMistake

GRPC_SECONDS = 5.0
GRPC_HELP = "Ask gRPC health too: HOST:PORT, or https://HOST:PORT through TLS (default: QUORRA_GRPC_ADDR)."


@click.group()
def server() -> None:
    """Look at the server."""


@server.command()
@click.option("--grpc", "grpc_address", metavar="ADDRESS", help=GRPC_HELP)
@output_option
@click.pass_obj
def health(session: Session, grpc_address: str | None) -> None:
    """Say whether the server can do its work; exit code 1 if not."""
    status, answer = session.client.health()
    row = {"server": session.client.server, "http": answer["status"], "problems": answer["problems"]}
    address = grpc_address or os.environ.get("QUORRA_GRPC_ADDR")
    if address:
        if not address.isascii():
            raise UsageMistake("The address for gRPC (--grpc or QUORRA_GRPC_ADDR) cannot be read; use HOST:PORT.")
        row["grpc"] = _grpc_health(address)
    output.show_one(row, session.form, name="http")
    if status != 200 or row.get("grpc", "SERVING") != "SERVING":
        raise CommandError("The server is not ready; its problems are listed above.")


def _grpc_health(address: str) -> str:
    # Imported where it is used: it would make every other verb, and every completion, slower to start.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    scheme, _, target = address.rpartition("://")
    if scheme == "https":
        opened = grpc.secure_channel(target, grpc.ssl_channel_credentials())
    else:
        opened = grpc.insecure_channel(target)
    with opened as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=GRPC_SECONDS)
        except grpc.RpcError as error:
            raise Unreachable(
                f"gRPC at {address} does not answer ({error.code().name}). Check QUORRA_GRPC_ADDR."
            ) from error
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


@server.command()
@output_option
@click.pass_obj
def version(session: Session) -> None:
    """Show the server's version."""
    api = session.client.read("openapi.json", needs="info")
    output.show_one({"server": session.client.server, "version": api["info"]["version"]}, session.form, name="version")


@click.group()
def worker() -> None:
    """Look at workers."""


@worker.command(name="list")
@output_option
@click.pass_obj
def list_workers(session: Session) -> None:
    """List live workers."""
    columns = ("worker_id", "host", "pid", "running", "slots", "queues", "version", "last_beat")
    output.show_rows(
        session.client.read("v1", "workers", needs="workers")["workers"], columns, session.form, name="worker_id"
    )


@click.group()
def context() -> None:
    """Keep several servers, and choose one."""


@context.command(name="list")
@output_option
@click.pass_obj
def list_contexts(session: Session) -> None:
    """List contexts; keys are not shown."""
    known = contexts.load()
    rows = [
        {"name": name, "server": found.server, "current": "*" if name == known.current else ""}
        for name, found in sorted(known.named.items())
    ]
    output.show_rows(rows, ("current", "name", "server"), session.form, name="name")


@context.command()
@click.argument("name")
@click.option("--server", "url", required=True, help="Such as https://quorra.example.com.")
@click.option(
    "--api-key", envvar="QUORRA_API_KEY", help="Better given as QUORRA_API_KEY: arguments can be seen by others."
)
def add(name: str, url: str, api_key: str | None) -> None:
    """Add or replace a context, and use it if it is the first one."""
    address_of(url)
    known = contexts.load()
    known.named[name] = contexts.Context(url, api_key or "")
    known.current = known.current or name
    contexts.save(known)
    output.say(f"Context {name} is kept in {contexts.contexts_path()}.")


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Use a context from now on."""
    known = contexts.load()
    if name not in known.named:
        raise CommandError(f"There is no context {name!r}; `quorractl context list` shows all.")
    known.current = name
    contexts.save(known)
    output.say(f"Using {name}: {known.named[name].server}.")


@context.command()
@click.argument("name", required=False)
def test(name: str | None) -> None:
    """Say whether a context's server answers and takes its key."""
    found = Client(contexts.resolve(None, name))
    found.read("v1", "queues", needs="queues")
    output.say(f"{found.server} answers and takes the key.")
