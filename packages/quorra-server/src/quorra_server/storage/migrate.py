"""Bring the schema `quorra` up to the version that this server needs: numbered files, forward only."""

import asyncio
import random
import re
from dataclasses import dataclass

import asyncpg

from quorra_server.domain.errors import SchemaTooNew
from quorra_server.storage.roles import REVOKE_PUBLIC, Roles, grant_roles
from quorra_server.storage.statements import MIGRATIONS_FOLDER, sql_files

# Any constant: it only has to be the same in every server, so that one migrates and the others wait.
MIGRATION_LOCK = 7_310_862_514
# While a step waits for a lock, everybody else waits behind it: it gives up soon, lets them pass, and tries again.
LOCK_TIMEOUT_SECONDS = 1
LOCK_TRIES_MAX = 60
LOCK_PAUSE_SECONDS = (0.5, 1.5)
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
HAS_SERVES = """
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = 'quorra.migrations'::regclass AND attname = 'serves' AND NOT attisdropped
)
"""
ADD_SERVES = "ALTER TABLE quorra.migrations ADD COLUMN serves integer"
SERVES = re.compile(r"^-- serves: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step.

    Attributes:
        number: The four digits that its file name begins with.
        serves: The oldest schema version whose servers still work after it, so that they can be replaced one by one:
            what a line `-- serves: N` of the file says, else only its own.
    """

    number: int
    name: str
    sql: str
    serves: int


def migrations() -> list[Migration]:
    """Return all steps in order."""
    return [_migration(name, sql) for name, sql in sql_files(MIGRATIONS_FOLDER)]


def _migration(file: str, sql: str) -> Migration:
    number, serves = int(file[:4]), SERVES.search(sql)
    return Migration(number, file[5:], sql, int(serves[1]) if serves else number)


async def migrate(dsn: str, roles: Roles | None = None) -> list[str]:
    """Apply the steps that are missing, each in its own transaction, and return their names.

    Safe to run at any time, under load, and from several servers at once: the others wait for the first. A step that
    does not get its locks within a second lets everybody pass and tries again, for about two minutes.

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
    while (step := await _apply_next_patiently(connection)) is not None:
        applied.append(f"{step.number:04d}_{step.name}")
    return applied


async def _apply_next_patiently(connection: asyncpg.Connection) -> Migration | None:
    for attempt in range(1, LOCK_TRIES_MAX + 1):
        try:
            return await _apply_next(connection)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == LOCK_TRIES_MAX:
                raise
        await asyncio.sleep(random.uniform(*LOCK_PAUSE_SECONDS))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable")


async def _apply_next(connection: asyncpg.Connection) -> Migration | None:
    """Apply the next step that is missing, if there is one; after the last one make the partitions of the next days."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        await connection.execute(CREATE_LEDGER)
        if not await connection.fetchval(HAS_SERVES):
            await connection.execute(ADD_SERVES)
        step = _next_step(await schema_version(connection))
        if step is None:
            await connection.execute(
                "SELECT quorra.make_partitions((now() AT TIME ZONE 'UTC')::date, $1)",
                PARTITION_DAYS_AHEAD,
            )
            return None
        await connection.execute(step.sql)
        await connection.execute(REVOKE_PUBLIC)
        await connection.execute(
            "INSERT INTO quorra.migrations (number, name, serves) VALUES ($1, $2, $3)",
            step.number,
            step.name,
            step.serves,
        )
        return step


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
