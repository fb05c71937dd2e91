"""Roles: who may do what in the database, and that a server needs no right to change the schema."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from quorra_server.services.lease_ids import text_of
from quorra_server.storage import leases, retention
from quorra_server.storage.migrate import migrate
from quorra_server.storage.roles import PUBLIC_FUNCTIONS, RoleMissing, Roles

from tests.conftest import on_database
from tests.support.processes import BIN, clean_environment
from tests.support.queue_spec import QueueSpec
from tests.support.services import Service

PASSWORD = "a-password-of-the-test"


class Logins(NamedTuple):
    """Addresses of one database, by who connects."""

    owner: str
    runtime: str
    application: str


def as_user(url: str, name: str) -> str:
    """Return an address with another user."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
async def logins(database_url: str) -> AsyncIterator[Logins]:
    """A database whose roles have their rights, with a login for each."""
    admin = await asyncpg.connect(database_url)
    names = {role: f"{role}_{urlsplit(database_url).path[1:]}" for role in ("runtime", "application")}
    for name in names.values():
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    await migrate(database_url, Roles(**names))
    yield Logins(database_url, as_user(database_url, names["runtime"]), as_user(database_url, names["application"]))
    for name in names.values():
        await admin.execute(f"DROP OWNED BY {name} CASCADE")
        await admin.execute(f"DROP ROLE {name}")
    await admin.close()


async def test_the_application_submits_and_completes_and_sees_no_table(logins: Logins) -> None:
    application = await asyncpg.connect(logins.application)
    job_id = (await application.fetchrow("SELECT id FROM quorra.enqueue('t', '{}'::jsonb)"))["id"]
    async with QueueSpec(logins.owner) as queue:
        lease = await queue.lease_one()

    status = await application.fetchval("SELECT quorra.complete($1, $2, 5)", job_id, text_of(lease))

    assert "succeeded" == status
    for table in ("jobs", "ready", "leases", "outcomes", "keys"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await application.fetch(f"SELECT FROM quorra.{table}")
    await application.close()


async def test_the_application_may_execute_the_public_functions_and_no_others(logins: Logins) -> None:
    application = await asyncpg.connect(logins.application)

    rows = await application.fetch(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'quorra'::regnamespace "
        "AND has_function_privilege(oid, 'EXECUTE')"
    )

    assert set(PUBLIC_FUNCTIONS) == {row["proname"] for row in rows}
    await application.close()


async def test_public_functions_run_as_their_owner_unless_they_take_any_value_and_pin_the_search_path(
    logins: Logins,
) -> None:
    owner = await asyncpg.connect(logins.owner)

    rows = await owner.fetch(
        "SELECT proname, prosecdef, proconfig, 'anyelement'::regtype = ANY (proargtypes) AS takes_any_value "
        "FROM pg_proc WHERE pronamespace = 'quorra'::regnamespace AND (proname = ANY ($1) OR prosecdef)",
        PUBLIC_FUNCTIONS,
    )

    assert set(PUBLIC_FUNCTIONS) <= {row["proname"] for row in rows}
    for row in rows:
        assert row["prosecdef"] != row["takes_any_value"], row
        assert any(setting.startswith("search_path=pg_catalog") for setting in row["proconfig"]), row
    await owner.close()


async def test_a_cast_of_the_callers_type_does_not_run_as_the_owner(logins: Logins) -> None:
    """Turning a value into JSON calls such a cast: as the owner it could do anything."""
    owner = await asyncpg.connect(logins.owner)
    name = urlsplit(logins.application).username
    await owner.execute(f"CREATE SCHEMA shop AUTHORIZATION {name}")
    await owner.close()
    application = await asyncpg.connect(logins.application)
    await application.execute(
        """
        CREATE TYPE shop.item AS ENUM ('hat');
        CREATE FUNCTION shop.item_json(shop.item) RETURNS json LANGUAGE sql
            AS $$ SELECT json_build_object('ran_as', current_user) $$;
        CREATE CAST (shop.item AS json) WITH FUNCTION shop.item_json(shop.item);
        """
    )

    row = await application.fetchrow("SELECT id FROM quorra.enqueue('t', 'hat'::shop.item)")

    async with QueueSpec(logins.owner) as queue:
        assert {"ran_as": name} == json.loads((await queue.job(row["id"])).payload)
    await application.close()


async def test_an_object_of_the_callers_does_not_stand_in_for_one_of_ours(logins: Logins) -> None:
    application = await asyncpg.connect(logins.application)
    await application.execute("CREATE TEMP TABLE jobs (id int); CREATE TEMP TABLE pg_proc (id int)")
    await application.execute("SET search_path = pg_temp, quorra, public")

    row = await application.fetchrow("SELECT id FROM quorra.enqueue('t', '{}')")

    async with QueueSpec(logins.owner) as queue:
        assert "t" == (await queue.job(row["id"])).type
    await application.close()


async def test_the_runtime_does_all_of_a_servers_work_without_ddl(logins: Logins) -> None:
    async with QueueSpec(logins.runtime) as queue:
        await queue.submit(2, unique_key=None)
        await queue.succeed(await queue.lease_one())
        await queue.fail(await queue.lease_one())
        await queue.enqueue(unique_key="k")
        await queue.expire()
        await leases.close_batches(queue.pool, None)
        await retention.make_partitions(queue.pool, 12)
        await queue.pool.fetch("SELECT quorra.make_partitions(current_date - 60, 1)")
        (old,) = await retention.list_old_partitions(queue.pool, timedelta(days=7))
        dropped = await retention.drop_partition(queue.pool, old, timedelta(days=7))
        counts = await queue.counts()
        refused = []
        for change in ("CREATE TABLE quorra.mine (id int)", "DROP TABLE quorra.notes", "TRUNCATE quorra.notes"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await queue.pool.fetch(change)
            refused.append(change)

    assert 3 == sum(counts.values())
    assert dropped
    assert 3 == len(refused)


async def test_an_owner_that_may_not_create_roles_is_told_what_to_ask_for(postgres_for_all: Service) -> None:
    admin = await asyncpg.connect(postgres_for_all.url)
    await admin.execute(f"CREATE ROLE plain_owner LOGIN PASSWORD '{PASSWORD}'")
    await admin.execute("CREATE DATABASE plain OWNER plain_owner")
    url = as_user(on_database(postgres_for_all.url, "plain"), "plain_owner")
    try:
        with pytest.raises(RoleMissing, match='CREATE ROLE "plain_app" NOLOGIN'):
            await migrate(url, Roles(application="plain_app"))
        await admin.execute('CREATE ROLE "plain_app" NOLOGIN')
        await migrate(url, Roles(application="plain_app"))

        member = await asyncpg.connect(on_database(postgres_for_all.url, "plain"))
        await member.execute("SET ROLE plain_app")
        assert await member.fetchval("SELECT existing FROM quorra.enqueue('t', '{}')") is False
        await member.close()
    finally:
        await admin.execute("DROP DATABASE plain WITH (FORCE)")
        await admin.execute("DROP ROLE plain_owner")
        await admin.execute("DROP ROLE IF EXISTS plain_app")
        await admin.close()


async def test_the_command_line_gives_the_rights(database_url: str) -> None:
    role = f"app_{urlsplit(database_url).path[1:]}"
    environment = {**clean_environment(), "DATABASE_URL": database_url}

    migrated = await asyncio.create_subprocess_exec(
        str(BIN / "quorra-server"), "migrate", "--application-role", role, env=environment
    )

    assert 0 == await migrated.wait()
    admin = await asyncpg.connect(database_url)
    assert await admin.fetchval(
        "SELECT has_function_privilege($1, 'quorra.complete(uuid, text, text)', 'EXECUTE')", role
    )
    await admin.execute(f"DROP OWNED BY {role}")
    await admin.execute(f"DROP ROLE {role}")
    await admin.close()
