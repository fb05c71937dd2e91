"""Statistics: a plan that was made while a table was empty does not outlive the emptiness."""

import json

import asyncpg
from quorra_server.storage import statistics
from quorra_server.storage.database import SESSION
from quorra_server.storage.statements import SQL_FOLDER, sql_files

from tests.support.queue_spec import QueueSpec

STATEMENTS = dict(sql_files(SQL_FOLDER))
LEASE = (
    "EXECUTE lease('default', 100, NULL, 'w', 'p', 30000, gen_random_uuid(), false, "
    "-9223372036854775808, '1970-01-01', '00000000-0000-0000-0000-000000000000')"
)
# As PostgreSQL 16 and later say it, and as 15 does.
READS_ALL_FOR_EACH = ("Join Filter: (job.id = member.job_id)", "Join Filter: (member.job_id = job.id)")


async def _plan(connection: asyncpg.Connection, execute: str) -> str:
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (COSTS OFF) {execute}"))


def _reads_all_for_each(plan: str) -> bool:
    return any(filter in plan for filter in READS_ALL_FOR_EACH)


async def test_a_lease_planned_on_vacuumed_empty_tables_becomes_a_look_up_once_they_are_filled(
    queue: QueueSpec, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute(f"PREPARE lease AS {STATEMENTS['lease_jobs']}")
    before = await _plan(connection, LEASE)
    await queue.submit(5_000)

    analyzed = await statistics.analyze_outgrown(queue.pool)

    assert _reads_all_for_each(before)
    assert not _reads_all_for_each(await _plan(connection, LEASE))
    # Named with their schema only where the search path needs it.
    kinds = {name.removeprefix("quorra.").partition("_")[0] for name in analyzed}
    assert kinds >= {"jobs", "ready"}
    await connection.close()


async def test_a_short_lease_walks_past_nothing_that_is_delayed(queue: QueueSpec, database_url: str) -> None:
    """Of no priority: a million jobs that are due tomorrow must not slow down those of today."""
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    for priority in (5, 0, -5):
        await queue.submit(7_000, priority=priority, delay_ms=3_600_000)
    due = await queue.submit(3)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute(f"PREPARE lease AS {STATEMENTS['lease_jobs']}")

    plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {LEASE}")

    (whole,) = json.loads(plan)
    assert 3 == whole["Plan"]["Actual Rows"], due
    assert whole["Plan"]["Shared Hit Blocks"] < 100
    await connection.close()


async def test_what_was_analyzed_is_left_alone_until_it_has_grown_again(queue: QueueSpec) -> None:
    await queue.submit(5_000)
    await statistics.analyze_outgrown(queue.pool)

    again = await statistics.analyze_outgrown(queue.pool)

    assert again == []


async def test_counting_looks_members_up_whatever_is_known_of_the_tables(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute(f"PREPARE counted AS {STATEMENTS['count_queues']}")

    plan = await _plan(connection, "EXECUTE counted")

    assert "Materialize" not in plan
    assert "Index Cond: ((job_id = member.job_id) AND (batch = leases.batch))" in plan
    await connection.close()
