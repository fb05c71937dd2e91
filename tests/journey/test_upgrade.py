"""A new version replaces the one before it under load: nobody waits long, nothing is lost, both work side by side."""

import asyncio
import time

import asyncpg
import pytest
from quorra_server.services.health import HealthService
from quorra_server.storage.database import Pool, PoolSettings
from quorra_server.storage.migrate import migrate, needed_version

from tests.support.waiting import eventually
from tests.upgrade import WORKERS, RevisionMissing, Version, build, run_upgrade

# No version was released yet: this one stands for the one before. It is the oldest whose servers know whether a newer
# schema serves them.
REVISION = "c18a20e"
# A step that does not get its lock lets everybody pass after a second.
STALL_SECONDS_MAX = 2.0
WAIT_SECONDS_MAX = 3.0
JOBS_PER_SECOND_MIN = 50
BACK_TO_STEP_3 = """
ALTER TABLE quorra.ready DROP COLUMN timed;
ALTER TABLE quorra.leases DROP COLUMN timed, DROP COLUMN extra_ms;
ALTER TABLE quorra.count_deltas DROP COLUMN by_sql;
DROP TABLE quorra.lives, quorra.failovers, quorra.sessions;
DROP INDEX quorra.keys_requested;
DELETE FROM quorra.migrations WHERE number > 3;
"""


@pytest.fixture
def version_before() -> Version:
    try:
        return build(REVISION)
    except RevisionMissing as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_servers_and_workers_are_replaced_one_by_one_under_load(version_before: Version) -> None:
    report = run_upgrade(version_before, seconds=3)

    print(report)
    assert ([], {}) == (report.refused, report.amiss)
    assert report.submitted == report.succeeded + report.dead
    assert set(WORKERS) <= report.by_worker.keys()
    assert ([], []) == (report.old_server_on_new_schema, report.old_server_errors)
    assert report.stall_seconds < STALL_SECONDS_MAX
    assert report.wait_seconds < WAIT_SECONDS_MAX
    assert report.submitted_per_second > JOBS_PER_SECOND_MIN


async def test_a_step_that_waits_for_a_lock_lets_others_pass(database_url: str) -> None:
    """A table that somebody reads for long cannot be altered; whoever comes after the waiting step waits behind it."""
    reader, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    await other.execute(BACK_TO_STEP_3)
    reading = reader.transaction()
    await reading.start()
    await reader.execute("SELECT count(*) FROM quorra.ready")

    migrating = asyncio.create_task(migrate(database_url))
    await eventually(lambda: _somebody_waits(other), "the step waits for the reader")
    waits = []
    for _ in range(3):
        began_at = time.monotonic()
        await other.execute("SELECT count(*) FROM quorra.ready")
        waits.append(time.monotonic() - began_at)
        await eventually(lambda: _somebody_waits(other), "the step waits again")
    was_done = migrating.done()
    await reading.rollback()
    applied = await migrating

    assert not was_done
    assert max(waits) < 4, waits
    assert list(range(4, needed_version() + 1)) == [int(name[:4]) for name in applied]
    await reader.close()
    await other.close()


@pytest.mark.parametrize(("serves", "is_ready"), [(0, True), (1, False)], ids=["compatible", "incompatible"])
async def test_a_newer_schema_is_fine_if_it_serves_this_version(database_url: str, serves: int, is_ready: bool) -> None:
    needed = needed_version()
    pool = Pool(PoolSettings(database_url, 1, acquire_seconds=5, statement_seconds=20))
    await pool.open()
    await pool.fetch(
        "INSERT INTO quorra.migrations (number, name, serves) VALUES ($1, 'from_the_future', $2)",
        needed + 1,
        needed + serves,
    )

    readiness = await HealthService(pool).check()

    assert is_ready == readiness.ready, readiness.problems
    await pool.close()


async def _somebody_waits(connection: asyncpg.Connection) -> bool:
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    return found
