"""The table of SQLSTATEs, row by row, against a real PostgreSQL that really raises them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from quorra_server.domain.errors import OutcomeUnknown, QuorraError, StorageUnavailable
from quorra_server.embedded import EmbeddedPostgres
from quorra_server.storage.database import Executor, KeyTaken, Pool, PoolSettings
from quorra_server.storage.sqlstates import MEANINGS, Meaning, meaning_of

from tests.conftest import on_database
from tests.support.pair import Pair, replicated_postgres
from tests.support.proxy import Proxy
from tests.support.services import own_postgres
from tests.support.waiting import eventually

SLEEP = "SELECT pg_sleep(30)"


@dataclass
class Scene:
    """A database with a table of two rows, and a pool of the product's own on it."""

    url: str
    pool: Pool

    async def beside(self, statement: str, *arguments: object) -> None:
        """Run a statement on a connection of its own."""
        connection = await asyncpg.connect(self.url)
        await connection.execute(statement, *arguments)
        await connection.close()

    async def to_sleepers(self, function: str) -> None:
        """Do something to the backend that sleeps, once it does."""
        connection = await asyncpg.connect(self.url)

        async def look() -> bool:
            call = f"SELECT count({function}(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            return bool(await connection.fetchval(call))

        await eventually(look, "the statement runs")
        await connection.close()


def pool_on(url: str, connections: int = 3) -> Pool:
    return Pool(PoolSettings(url, connections, acquire_seconds=5, statement_seconds=20))


@pytest.fixture
async def scene(database_url: str) -> AsyncIterator[Scene]:
    async with opened(pool_on(database_url)) as pool:
        found = Scene(database_url, pool)
        await found.beside("CREATE TABLE pair (id int PRIMARY KEY, n int); INSERT INTO pair VALUES (1, 0), (2, 0)")
        yield found


@contextlib.asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[Pool]:
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def serialization(scene: Scene) -> None:
    async with scene.pool.transaction() as transaction:
        await transaction.fetch("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await transaction.fetch("SELECT FROM pair")
        await scene.beside("UPDATE pair SET n = n + 1")
        await transaction.fetch("UPDATE pair SET n = n + 1")


async def deadlock(scene: Scene) -> None:
    met = asyncio.Barrier(2)

    async def cross(first: int, second: int) -> None:
        async with scene.pool.transaction() as transaction:
            await transaction.fetch("UPDATE pair SET n = n + 1 WHERE id = $1", first)
            await met.wait()
            await transaction.fetch("UPDATE pair SET n = n + 1 WHERE id = $1", second)

    ended = await asyncio.gather(cross(1, 2), cross(2, 1), return_exceptions=True)
    raise next(error for error in ended if error is not None)


async def lock_timeout(scene: Scene) -> None:
    holder = await asyncpg.connect(scene.url)
    async with holder.transaction():
        await holder.execute("LOCK TABLE pair")
        async with scene.pool.transaction() as transaction:
            await transaction.fetch("SET LOCAL lock_timeout = '10ms'")
            await transaction.fetch("SELECT FROM pair")


async def statement_timeout(scene: Scene) -> None:
    async with scene.pool.transaction() as transaction:
        await transaction.fetch("SET LOCAL statement_timeout = '10ms'")
        await transaction.fetch(SLEEP)


async def cancelled(scene: Scene) -> None:
    await _while_it_sleeps(scene, scene.to_sleepers("pg_cancel_backend"))


async def terminated(scene: Scene) -> None:
    await _while_it_sleeps(scene, scene.to_sleepers("pg_terminate_backend"))


async def _while_it_sleeps(scene: Scene, event: Awaitable[None]) -> None:
    sleeping = asyncio.create_task(scene.pool.fetch(SLEEP))
    await event
    await sleeping


async def idle_in_transaction(scene: Scene) -> None:
    async with scene.pool.transaction() as transaction:
        pid = (await transaction.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"]
        await transaction.fetch("SET LOCAL idle_in_transaction_session_timeout = '10ms'")
        await eventually(lambda: _is_gone(scene, pid), "the session is ended")
        await transaction.fetch("SELECT 1")


async def _is_gone(scene: Scene, pid: int) -> bool:
    connection = await asyncpg.connect(scene.url)
    count = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)
    await connection.close()
    return bool(count == 0)


async def temporary_files(scene: Scene) -> None:
    async with scene.pool.transaction() as transaction:
        await transaction.fetch("SET LOCAL temp_file_limit = '64kB'")
        await transaction.fetch("SET LOCAL work_mem = '64kB'")
        await transaction.fetch("SELECT n FROM generate_series(1, 200000) AS n ORDER BY random() OFFSET 199999")


async def wrong_password(scene: Scene) -> None:
    await _first_call(_as_user(scene.url, "quorra:wrong"))


async def locked_out(scene: Scene) -> None:
    role = f"locked_out_{urlsplit(scene.url).path[1:]}"
    await scene.beside(f"CREATE ROLE {role} NOLOGIN PASSWORD 'right'")
    try:
        await _first_call(_as_user(scene.url, f"{role}:right"))
    finally:
        await scene.beside(f"DROP ROLE {role}")


async def missing_database(scene: Scene) -> None:
    await _first_call(on_database(scene.url, "no_such_database"))


async def _first_call(url: str) -> None:
    async with opened(pool_on(url)) as pool, pool.transaction() as transaction:
        await transaction.fetch("SELECT 1")


async def read_only(scene: Scene) -> None:
    async with scene.pool.transaction() as transaction:
        await transaction.fetch("SET TRANSACTION READ ONLY")
        await transaction.fetch("UPDATE pair SET n = 1")


async def missing_table(scene: Scene) -> None:
    await scene.pool.fetch("SELECT FROM no_such_table")


async def missing_schema(scene: Scene) -> None:
    await scene.pool.fetch("SELECT no_such_schema.no_such_function()")


async def taken(scene: Scene) -> None:
    await scene.pool.fetch("INSERT INTO pair VALUES (1, 1) RETURNING id")


async def missing_column(scene: Scene) -> None:
    await scene.pool.fetch("SELECT no_such_column FROM pair")


async def missing_right(scene: Scene) -> None:
    async with scene.pool.transaction() as transaction:
        await transaction.fetch("SET LOCAL ROLE pg_monitor")
        await transaction.fetch("SELECT id FROM quorra.jobs")


async def division(scene: Scene) -> None:
    await scene.pool.fetch("SELECT 1 / n AS n FROM pair")


async def wrong_argument(scene: Scene) -> None:
    await scene.pool.fetch("SELECT $1::int AS n", "one")


Provoke = Callable[[Scene], Awaitable[None]]


def raised(code: str) -> Provoke:
    """Return what has a function raise a code, for those that a test cannot have PostgreSQL come to by itself.

    Errors of whole sessions are among them: what the driver makes of these is the affair of tests of their own, below.
    """

    async def provoke(scene: Scene) -> None:
        await scene.pool.fetch(f"DO $$ BEGIN RAISE EXCEPTION 'by a test' USING ERRCODE = '{code}'; END $$")

    return provoke


class Case(NamedTuple):
    """A row of the table, a code that falls under it, and what becomes of that.

    Attributes:
        met: The code that the driver hands on, if it does.
    """

    row: str
    met: str | None
    provoke: Provoke
    told: type[Exception]


def _as_raised(row: str, code: str, told: type[Exception]) -> Case:
    return Case(row, code, raised(code), told)


CASES = [
    Case("40001", "40001", serialization, StorageUnavailable),
    Case("40P01", "40P01", deadlock, StorageUnavailable),
    Case("55P03", "55P03", lock_timeout, StorageUnavailable),
    Case("57014", "57014", statement_timeout, StorageUnavailable),  # before its COMMIT was sent
    Case("57014", "57014", cancelled, OutcomeUnknown),
    Case("57P01", "08003", terminated, OutcomeUnknown),  # what the driver makes of it
    _as_raised("57P01", "57P01", OutcomeUnknown),
    _as_raised("57P02", "57P02", OutcomeUnknown),
    _as_raised("57P04", "57P04", OutcomeUnknown),
    _as_raised("57P05", "57P05", OutcomeUnknown),
    Case("25P03", None, idle_in_transaction, StorageUnavailable),  # the driver says only that the connection is closed
    _as_raised("25P03", "25P03", OutcomeUnknown),
    Case("08", "08003", terminated, OutcomeUnknown),
    *(_as_raised("08", code, OutcomeUnknown) for code in ("08000", "08001", "08004", "08006", "08P01")),
    _as_raised("57P03", "57P03", StorageUnavailable),
    Case("53", "53400", temporary_files, StorageUnavailable),
    *(_as_raised("53", code, StorageUnavailable) for code in ("53000", "53100", "53200", "53300")),
    Case("28", "28P01", wrong_password, StorageUnavailable),
    Case("28", "28000", locked_out, StorageUnavailable),
    Case("3D000", "3D000", missing_database, StorageUnavailable),
    Case("25006", "25006", read_only, StorageUnavailable),
    Case("42P01", "42P01", missing_table, StorageUnavailable),
    Case("3F000", "3F000", missing_schema, StorageUnavailable),
    Case("23505", "23505", taken, KeyTaken),
    Case("42", "42703", missing_column, asyncpg.UndefinedColumnError),
    Case("42", "42501", missing_right, asyncpg.InsufficientPrivilegeError),
    Case("22", "22012", division, asyncpg.DivisionByZeroError),
    Case("22", "22000", wrong_argument, asyncpg.DataError),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.met}-{case.provoke.__name__}")
async def test_a_row_of_the_table(scene: Scene, case: Case) -> None:
    with pytest.raises(Exception) as met:
        await case.provoke(scene)

    error = met.value
    cause = error.__cause__ or error
    assert case.told is type(error)
    assert case.met == getattr(cause, "sqlstate", None)
    assert MEANINGS[case.row] is meaning_of(cause)
    if isinstance(error, QuorraError):
        assert error.retry_after_seconds is not None


def test_every_row_of_the_table_has_a_case() -> None:
    assert MEANINGS.keys() == {case.row for case in CASES}


def test_codes_of_no_row_are_bugs_and_a_code_counts_before_its_class() -> None:
    assert {Meaning.BUG} == {meaning_of(error) for error in (ValueError(), asyncpg.InternalServerError("?"))}
    assert (Meaning.BUG, Meaning.NOT_MIGRATED) == (MEANINGS["42"], meaning_of(asyncpg.UndefinedTableError("?")))


async def test_a_serialization_failure_is_repeated_until_it_succeeds(scene: Scene) -> None:
    tries = 0

    async def work(transaction: Executor) -> int:
        nonlocal tries
        tries += 1
        await transaction.fetch("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await transaction.fetch("SELECT FROM pair")
        if tries < 3:
            await scene.beside("UPDATE pair SET n = n + 1")
        await transaction.fetch("UPDATE pair SET n = n + 1")
        return tries

    assert 3 == await scene.pool.run_transaction(work)


async def test_a_serialization_failure_that_stays_is_told_after_five_tries(scene: Scene) -> None:
    tries = 0

    async def work(transaction: Executor) -> None:
        nonlocal tries
        tries += 1
        await transaction.fetch("DO $$ BEGIN RAISE serialization_failure; END $$")

    with pytest.raises(StorageUnavailable):
        await scene.pool.run_transaction(work)

    assert 5 == tries


async def test_after_a_terminated_connection_the_next_call_has_another(scene: Scene) -> None:
    with pytest.raises(OutcomeUnknown):
        await terminated(scene)

    assert 1 == len(await scene.pool.fetch("SELECT 1"))


async def test_a_cut_in_the_middle_of_a_statement_leaves_it_unknown(scene: Scene) -> None:
    parts = urlsplit(scene.url)
    async with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        netloc = f"{parts.netloc.rpartition('@')[0]}@{proxy.address}"
        async with opened(pool_on(urlunsplit(parts._replace(netloc=netloc)))) as pool:
            sleeping = asyncio.create_task(pool.fetch(SLEEP))
            await scene.to_sleepers("abs")
            proxy.cut()

            with pytest.raises(OutcomeUnknown):
                await sleeping


async def test_a_change_of_roles_costs_each_connection_one_failed_call_at_most(scene: Scene) -> None:
    database = urlsplit(scene.url).path[1:]
    await scene.beside(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    write = "UPDATE pair SET n = n + 1 RETURNING n"
    await asyncio.gather(*(scene.pool.fetch("SELECT pg_sleep(0.2)") for _ in range(3)))
    held = scene.pool.size
    admin = await asyncpg.connect(scene.url)
    await admin.execute("SET default_transaction_read_only = off")
    await admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    await admin.close()

    failures = 0
    for _ in range(10):
        try:
            await scene.pool.fetch(write)
        except StorageUnavailable:
            failures += 1

    assert 3 == held
    assert 1 == failures


async def test_while_statements_are_refused_one_a_second_is_tried(scene: Scene) -> None:
    with pytest.raises(StorageUnavailable):
        await temporary_files(scene)

    with pytest.raises(StorageUnavailable, match="ConfigurationLimitExceeded"):
        await scene.pool.fetch("SELECT 1")

    await eventually(lambda: _works(scene.pool), "the breaker lets one through, and closes")
    assert 5 == len(await asyncio.gather(*(scene.pool.fetch("SELECT 1") for _ in range(5))))


async def test_while_nobody_can_connect_one_a_second_tries(scene: Scene) -> None:
    parts = urlsplit(scene.url)
    proxy = Proxy(parts.hostname or "", parts.port or 0)
    proxy.refuses = True
    async with proxy:
        netloc = f"{parts.netloc.rpartition('@')[0]}@{proxy.address}"
        async with opened(pool_on(urlunsplit(parts._replace(netloc=netloc)))) as pool:
            began = asyncio.get_running_loop().time()
            refused = 0
            while asyncio.get_running_loop().time() - began < 2.5:
                with pytest.raises(StorageUnavailable):
                    await pool.fetch("SELECT 1")
                refused += 1
                await asyncio.sleep(0.005)

    # asyncpg tries an address again without TLS: two connections are one try.
    assert refused > 20
    assert 1 <= proxy.disturbed <= 6


async def test_after_a_backend_crashed_a_statement_is_unknown_and_the_pool_recovers() -> None:
    """PostgreSQL ends all sessions with 57P02, as a warning; the driver tells only that the connection is closed."""
    heard: list[str | None] = []
    with own_postgres() as postgres:
        async with opened(pool_on(postgres.dsn)) as pool:
            scene = Scene(postgres.dsn, pool)
            listener, victim = await asyncpg.connect(postgres.dsn), await asyncpg.connect(postgres.dsn)
            listener.add_log_listener(lambda _, message: heard.append(message.sqlstate))
            sleeping = asyncio.create_task(pool.fetch(SLEEP))
            await scene.to_sleepers("abs")

            os.kill(await victim.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)

            with pytest.raises(OutcomeUnknown) as met:
                await sleeping
            await eventually(lambda: _works(pool), "PostgreSQL has recovered", timeout=30)
            listener.terminate()
            victim.terminate()

    assert "57P02" in heard
    assert Meaning.CUT is meaning_of(met.value.__cause__) is MEANINGS["57P02"]


async def test_a_session_that_was_ended_for_being_idle_costs_no_call() -> None:
    """57P05 comes while nobody asks anything: the next call finds the connection closed, and takes another one."""
    with own_postgres({"idle_session_timeout": "100ms", "log_line_prefix": "%e "}) as postgres:
        log = postgres.data_dir.parent / "postgres.log"
        async with opened(pool_on(postgres.dsn)) as pool:
            first = (await pool.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"]
            await eventually(lambda: _is_gone(Scene(postgres.dsn, pool), first), "the session is ended")

            second = (await pool.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"]

        assert "57P05 FATAL" in log.read_text()

    assert first != second
    assert Meaning.CUT is MEANINGS["57P05"]


@pytest.mark.slow
def test_a_database_that_the_primary_drops_ends_the_sessions_on_its_standby(tmp_path: Path) -> None:
    """They hear 57P04; the driver tells only that the connection is closed, and nobody gets another one."""
    with replicated_postgres(tmp_path, is_synchronous=False) as pair:
        met, afterwards = asyncio.run(_met_when_dropped(pair))
        log = (pair.standby.home / "postgres.log").read_text()

    assert "57P04 FATAL" in log
    assert (OutcomeUnknown, StorageUnavailable) == (type(met), type(afterwards))
    assert Meaning.CUT is meaning_of(met.__cause__) is MEANINGS["57P04"]


async def _met_when_dropped(pair: Pair) -> tuple[Exception, Exception]:
    """Drop a database on the primary; return what a statement on the standby meets, and what the next one does."""
    admin = await asyncpg.connect(pair.primary.dsn)
    await admin.execute("CREATE DATABASE short_lived")
    url = on_database(pair.standby.dsn, "short_lived")
    await eventually(lambda: _exists(pair.standby.dsn, "short_lived"), "the standby has it")
    async with opened(pool_on(url)) as pool:
        sleeping = asyncio.create_task(pool.fetch(SLEEP))
        await Scene(url, pool).to_sleepers("abs")
        await admin.execute("DROP DATABASE short_lived")
        await admin.close()
        with pytest.raises(QuorraError) as met:
            await sleeping
        with pytest.raises(QuorraError) as afterwards:
            await pool.fetch("SELECT 1")
    return met.value, afterwards.value


async def _exists(url: str, database: str) -> bool:
    connection = await asyncpg.connect(url)
    found = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database)
    await connection.close()
    return bool(found)


async def _works(pool: Pool) -> bool:
    with contextlib.suppress(StorageUnavailable, OutcomeUnknown):
        return bool(await pool.fetch("SELECT 1"))
    return False


@pytest.mark.parametrize("kind", ["shutting down", "too many connections"])
async def test_a_server_that_refuses_connections_keeps_the_ones_that_stand(kind: str) -> None:
    settings = {"max_connections": "6", "superuser_reserved_connections": "0"}
    with own_postgres(settings) as postgres:
        async with opened(pool_on(postgres.dsn)) as pool:
            await pool.fetch("SELECT 1")
            others = [await asyncpg.connect(postgres.dsn) for _ in range(5)]
            if kind == "shutting down":
                # A smart shutdown lets those who are connected finish.
                os.kill(_postmaster(postgres), signal.SIGTERM)
                await eventually(lambda: _refuses(postgres.dsn, "57P03"), "it refuses")
            else:
                assert await _refuses(postgres.dsn, "53300")

            answers = await asyncio.gather(
                *(pool.fetch("SELECT pg_sleep(0.2)") for _ in range(2)), return_exceptions=True
            )
            still = await pool.fetch("SELECT 1")
            for connection in others:
                connection.terminate()

    assert [StorageUnavailable] == [type(answer) for answer in answers if isinstance(answer, BaseException)]
    assert 1 == len(still)


async def _refuses(url: str, code: str) -> bool:
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.PostgresError as error:
        return bool(error.sqlstate == code)
    await connection.close()
    return False


def _postmaster(postgres: EmbeddedPostgres) -> int:
    return int((postgres.data_dir / "postmaster.pid").read_text().splitlines()[0])


def _as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))
