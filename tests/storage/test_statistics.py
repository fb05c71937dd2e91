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
SETTLE = f"EXECUTE settle({', '.join(['NULL'] * 13)})"


async def _plan(connection: asyncpg.Connection, execute: str) -> str:
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (COSTS OFF) {execute}"))


async def test_a_lease_looks_its_jobs_up_even_if_it_was_planned_on_vacuumed_empty_tables(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute(f"PREPARE lease AS {STATEMENTS['lease_jobs']}")

    plan = await _plan(connection, LEASE)

    assert "Index Scan using jobs_" in plan
    assert "Seq Scan" not in plan
    # All of them at once: a join would ask for each member anew, in each partition.
    assert "id = ANY" in plan
    assert "member.job_id" not in plan
    await connection.close()


async def test_a_lease_opens_no_partition_in_which_none_of_its_jobs_can_be(queue: QueueSpec, database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await queue.submit(3)
    await connection.execute(f"PREPARE lease AS {STATEMENTS['lease_jobs']}")

    plan = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {LEASE}")

    scans = [row[0] for row in plan if "Index Scan using jobs_" in row[0]]
    assert 1 == sum("never executed" not in scan for scan in scans), scans
    assert len(scans) > 1
    await connection.close()


async def test_a_settle_planned_on_vacuumed_empty_tables_looks_jobs_up_once_they_are_filled(
    queue: QueueSpec, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute(f"PREPARE settle AS {STATEMENTS['settle_attempts']}")
    before = await _plan(connection, SETTLE)
    await queue.submit(5_000)

    analyzed = await statistics.analyze_outgrown(queue.pool)

    assert _reads_all_for_each(before)
    assert not _reads_all_for_each(await _plan(connection, SETTLE))
    # Named with their schema only where the search path needs it.
    kinds = {name.removeprefix("quorra.").partition("_")[0] for name in analyzed}
    assert kinds >= {"jobs", "ready"}
    await connection.close()


def _reads_all_for_each(plan: str) -> bool:
    """Say whether the jobs of failed attempts are found by reading all jobs for each of them."""
    return any("Join Filter" in line and "ended.job_id" in line for line in plan.splitlines())


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
    # A row for each job, and one for the batch.
    assert len(due) + 1 == whole["Plan"]["Actual Rows"]
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
