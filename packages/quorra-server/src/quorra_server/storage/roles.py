"""Roles: the runtime works on rows and never on the schema; the application may call the public functions, no more."""

from dataclasses import dataclass

import asyncpg

PUBLIC_FUNCTIONS = ("enqueue", "complete", "fail")
# PostgreSQL lets everybody execute a new function. The functions here are for the owner and the roles below.
REVOKE_PUBLIC = "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA quorra FROM PUBLIC"

RUNTIME_RIGHTS = """
GRANT USAGE ON SCHEMA quorra TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA quorra TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA quorra TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA quorra TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA quorra GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA quorra GRANT USAGE ON SEQUENCES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA quorra GRANT EXECUTE ON FUNCTIONS TO {role};
"""
FIND_PUBLIC_FUNCTIONS = """
SELECT oid::regprocedure::text AS signature
FROM pg_proc
WHERE pronamespace = 'quorra'::regnamespace AND proname = ANY ($1)
"""


class RoleMissing(Exception):
    """A role does not exist, and this user may not create it; the message says what to ask for."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Who gets rights; None leaves a role as it is.

    Attributes:
        runtime: What servers connect as: reads and writes rows, has no DDL.
        application: What producers and handlers connect as: executes the public functions only.
    """

    runtime: str | None = None
    application: str | None = None


async def grant_roles(connection: asyncpg.Connection, roles: Roles) -> None:
    """Give the roles their rights; a role that does not exist is created, unable to log in. Repeating it is safe.

    Raises:
        RoleMissing: A role does not exist, and this user may not create it.
    """
    if roles.runtime is not None:
        await _ensure_role(connection, roles.runtime)
        await connection.execute(RUNTIME_RIGHTS.format(role=_quoted(roles.runtime)))
    if roles.application is not None:
        await _ensure_role(connection, roles.application)
        role = _quoted(roles.application)
        await connection.execute(f"GRANT USAGE ON SCHEMA quorra TO {role}")
        for function in await connection.fetch(FIND_PUBLIC_FUNCTIONS, PUBLIC_FUNCTIONS):
            await connection.execute(f"GRANT EXECUTE ON FUNCTION {function['signature']} TO {role}")


async def _ensure_role(connection: asyncpg.Connection, name: str) -> None:
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
        return
    create = f"CREATE ROLE {_quoted(name)} NOLOGIN"
    try:
        async with connection.transaction():
            await connection.execute(create)
    except asyncpg.InsufficientPrivilegeError as error:
        raise RoleMissing(
            f"The role {name} does not exist, and this user may not create roles. Have somebody who may run: {create}; "
            "and migrate again with the same options."
        ) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
