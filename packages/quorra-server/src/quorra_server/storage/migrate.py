"""Bring the schema `quorra` up to the version that this server needs: numbered files, forward only."""

from dataclasses import dataclass

import asyncpg

from quorra_server.domain.errors import SchemaTooNew
from quorra_server.storage.roles import REVOKE_PUBLIC, Roles, grant_roles
from quorra_server.storage.statements import MIGRATIONS_FOLDER, sql_files

# Any constant: it only has to be the same in every server, so that one migrates and the others wait.
MIGRATION_LOCK = 7_310_862_514
LOCK_TIMEOUT_SECONDS = 5
PARTITION_DAYS_AHEAD = 8

CONNECTION_ERRORS: tuple[type[Exception], ...] = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)

CREATE_LEDGER = """
CREATE SCHEMA IF NOT EXISTS quorra;
CREATE TABLE IF NOT EXISTS quorra.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step; `number` is the four digits that its file name begins with."""

    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Return all steps in order."""
    return [Migration(number=int(name[:4]), name=name[5:], sql=sql) for name, sql in sql_files(MIGRATIONS_FOLDER)]


async def migrate(dsn: str, roles: Roles | None = None) -> list[str]:
    """Apply the steps that are missing, each in its own transaction, and return their names.

    Safe to run at any time and from several servers at once: the others wait for the first.

    Args:
        roles: Whom to give the rights that they need; nobody but the owner by default.

    Raises:
        SchemaTooNew: The database has steps that this server does not know.
        RoleMissing: A role does not exist, and this user may not create it; the steps are applied.
    """
    connection = await asyncpg.connect(dsn)
    try:
        applied = await _apply_missing(connection)
        if roles is not None:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
                await grant_roles(connection, roles)
        return applied
    finally:
        await connection.close()


async def _apply_missing(connection: asyncpg.Connection) -> list[str]:
    applied: list[str] = []
    while True:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
            await connection.execute(CREATE_LEDGER)
            step = _next_step(await schema_version(connection))
            if step is None:
                await connection.execute(
                    "SELECT quorra.make_partitions((now() AT TIME ZONE 'UTC')::date, $1)",
                    PARTITION_DAYS_AHEAD,
                )
                return applied
            await connection.execute(step.sql)
            await connection.execute(REVOKE_PUBLIC)
            await connection.execute(
                "INSERT INTO quorra.migrations (number, name) VALUES ($1, $2)", step.number, step.name
            )
            applied.append(f"{step.number:04d}_{step.name}")


def _next_step(version: int) -> Migration | None:
    steps = migrations()
    if version > steps[-1].number:
        raise SchemaTooNew(
            f"The database has schema version {version}, this server knows {steps[-1].number}. "
            "Run the server version that migrated it, or a later one."
        )
    return next((step for step in steps if step.number > version), None)


async def schema_version(connection: asyncpg.Connection) -> int:
    """Return the number of the last applied step; 0 before the first."""
    version: int = await connection.fetchval("SELECT coalesce(max(number), 0) FROM quorra.migrations")
    return version


def needed_version() -> int:
    """Return the schema version that this server needs."""
    return migrations()[-1].number
