"""`quorra-server`: serve, dev, migrate, check."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from quorra_server.config import Config, ConfigurationError, Setting, environment_of, load, refusals
from quorra_server.init import beneath_init
from quorra_server.observability.logging import configure_logging
from quorra_server.supervisor import SUPERVISED, claim, supervise

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
# sysexits.h: something is wrong with the configuration.
EXIT_CONFIG = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    code = beneath_init()
    if code is not None:
        return code
    options = _parser().parse_args(arguments)
    environment = dict(os.environ)
    if options.behind_tls_proxy:
        environment["QUORRA_BEHIND_TLS_PROXY"] = "on"
    if options.config:
        environment["QUORRA_CONFIG"] = options.config
    try:
        config, settings = load(environment, is_development=options.command == "dev")
    except ConfigurationError as error:
        return _refuse(error.mistakes)
    if options.print_config:
        return _print(settings)
    if options.command == "dev":
        return _dev(config, environment, options)
    if not config.database.dsn:
        return _refuse(["DATABASE_URL is not set; give it, or run `quorra-server dev` for an embedded PostgreSQL."])
    if options.command == "migrate":
        return _migrate(config, options)
    problems = refusals(config)
    if problems:
        return _refuse(problems)
    return _check(config) if options.command == "check" else _serve(config, environment, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quorra-server", description="The server of the Quorra job queue.")
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        choices=("serve", "dev", "migrate", "check"),
        help="serve (default); dev: with an embedded PostgreSQL; migrate: bring the schema up to date; "
        "check: say whether the configuration and the database are fine",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the ports (default 1)"
    )
    parser.add_argument(SUPERVISED, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE", help="a TOML file with settings, beneath the environment")
    parser.add_argument("--print-config", action="store_true", help="show each setting and where it came from, and end")
    parser.add_argument("--behind-tls-proxy", action="store_true", help="TLS ends in front of this server")
    parser.add_argument(
        "--runtime-role", metavar="ROLE", help="migrate: may work on rows, as servers do, and not on the schema"
    )
    parser.add_argument(
        "--application-role",
        metavar="ROLE",
        help="migrate: may call the SQL functions, as applications do, and nothing else",
    )
    parser.add_argument("--data-dir", type=Path, help="dev: where the embedded PostgreSQL keeps its data")
    parser.add_argument("--version", action="version", version=f"quorra-server {version('quorra-server')}")
    return parser


def _refuse(problems: Sequence[str]) -> int:
    for problem in problems:
        print(f"quorra-server: {problem}", file=sys.stderr)  # noqa: T201
    return EXIT_CONFIG


def _print(settings: Sequence[Setting]) -> int:
    for setting in settings:
        print(f"{setting.name:<34} {setting.shown or '(empty)':<44} {setting.source}")  # noqa: T201
    return EXIT_OK


def _dev(config: Config, environment: Mapping[str, str], options: argparse.Namespace) -> int:
    if config.database.dsn:
        return _serve_dev(config, "DATABASE_URL", environment, options)
    # Only development needs it; a server in production never imports it.
    from quorra_server import embedded

    try:
        with embedded.start(options.data_dir) as postgres:
            on_postgres = replace(config, database=replace(config.database, dsn=postgres.dsn))
            return _serve_dev(on_postgres, str(postgres.data_dir), environment, options)
    except embedded.EmbeddedUnavailable as error:
        print(f"quorra-server: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE


def _serve_dev(config: Config, data: str, environment: Mapping[str, str], options: argparse.Namespace) -> int:
    code = _migrate(config, options, quiet=True)
    if code:
        return code
    print(  # noqa: T201
        f"Quorra {version('quorra-server')}, development\n"
        f"  dashboard and REST  http://{config.listen.http}\n"
        f"  gRPC                {config.listen.grpc}\n"
        f"  API key             {config.security.api_key}\n"
        f"  data                {data}",
        file=sys.stderr,
        flush=True,
    )
    return _serve(config, {**environment, **environment_of(config)}, options)


def _serve(config: Config, environment: Mapping[str, str], options: argparse.Namespace) -> int:
    problem = None if options.supervised else claim(config.listen)
    if problem:
        print(f"quorra-server: {problem}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    if options.workers > 1:
        return supervise(options.workers, config.node, environment)
    configure_logging(config.log_level)
    return _run(config, is_supervised=options.supervised)


def _run(config: Config, *, is_supervised: bool) -> int:
    # Imported late, so that a supervisor holds neither grpc nor an event loop.
    import uvloop

    from quorra_server.app import serve

    async def until_signalled() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if is_supervised:
            loop.add_reader(sys.stdin.fileno(), _supervisor_lost, loop, stop)
        await serve(config, stop, shares_ports=is_supervised)

    try:
        uvloop.run(until_signalled())
    except OSError as error:
        print(f"quorra-server: {error}. Is another server running on that port?", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    return EXIT_OK


def _supervisor_lost(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop like on SIGTERM: nobody else will, and the ports would stay taken."""
    loop.remove_reader(sys.stdin.fileno())
    print("quorra-server: the supervisor is gone; this process drains and ends", file=sys.stderr)  # noqa: T201
    stop.set()


def _migrate(config: Config, options: argparse.Namespace, *, quiet: bool = False) -> int:
    from quorra_server.domain.errors import SchemaTooNew
    from quorra_server.storage.migrate import CONNECTION_ERRORS, migrate
    from quorra_server.storage.roles import RoleMissing, Roles

    roles = Roles(runtime=options.runtime_role, application=options.application_role)
    try:
        applied = asyncio.run(migrate(config.database.dsn, roles))
    except RoleMissing as error:
        print(f"quorra-server: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    except SchemaTooNew as error:
        print(f"quorra-server: {error.message}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    except CONNECTION_ERRORS as error:
        print(f"quorra-server: PostgreSQL cannot be reached: {error}. Check DATABASE_URL.", file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE
    if not quiet:
        print("\n".join(f"applied {name}" for name in applied) or "The schema is up to date.")  # noqa: T201
    return EXIT_OK


def _check(config: Config) -> int:
    from quorra_server.app import check

    problems = asyncio.run(check(config))
    for problem in problems:
        print(f"quorra-server: {problem}", file=sys.stderr)  # noqa: T201
    if not problems:
        print("The configuration and the database are fine.")  # noqa: T201
    return EXIT_FAILURE if problems else EXIT_OK
