"""Retention: days past their time are dropped whole; what lives, or is dead for less than its time, stays."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
import structlog
from quorra_server.domain.errors import StorageUnavailable
from quorra_server.domain.states import JobStatus
from quorra_server.services.loops.prune_history import REQUEST_KEYS_KEPT, PruneHistory
from quorra_server.storage import database, jobs, keys, leases, retention
from quorra_server.storage.database import Executor, Pool, PoolSettings
from quorra_server.storage.keys import Key
from quorra_server.storage.migrate import migrate

from tests.support.pooler import is_pooled, through_pooler
from tests.support.queue_spec import QueueSpec
from tests.support.waiting import eventually

WEEK = timedelta(days=7)
MONTH = timedelta(days=30)
# Nobody has been over for less than that.
NO_TIME = timedelta(seconds=-1)
# Today is past it.
SINCE_TOMORROW = timedelta(days=-1)
DAY_MS = 86_400_000
OLD_DAYS = 9
OLD_KEY = Key("request:somebody", "k")
IMPATIENT_SECONDS = 1.0


def id_in_days(days: int) -> UUID:
    """Return a UUIDv7 of a clock that is so many days ahead."""
    random = uuid4().int % 2**62
    return UUID(int=(time.time_ns() // 1_000_000 + days * DAY_MS) << 80 | 0x7 << 76 | 0x2 << 62 | random)


def id_of_the_old_day() -> UUID:
    return id_in_days(-OLD_DAYS)


@pytest.fixture
async def old_day(queue: QueueSpec) -> None:
    """Let a day past its time have partitions."""
    await queue.pool.fetch("SELECT quorra.make_partitions((now() AT TIME ZONE 'UTC')::date - $1::integer, 1)", OLD_DAYS)


async def move_to_the_old_day(queue: QueueSpec, *, ended: bool = True) -> None:
    """Let what was leased today have been leased on the old day, and have ended on it unless that is left out."""
    for table in ("outcomes", "leases"):
        await queue.pool.fetch(
            f"UPDATE quorra.{table} SET batch = batch - ($1::bigint << 20) "
            "WHERE batch > quorra.batch_at(now() - interval '1 day') RETURNING 1",
            OLD_DAYS * DAY_MS,
        )
    if ended:
        await queue.pool.fetch(
            "UPDATE quorra.outcomes SET ended_at = ended_at - $1::interval "
            "WHERE ended_at > now() - interval '1 day' RETURNING 1",
            timedelta(days=OLD_DAYS),
        )


async def drop_partitions(queue: QueueSpec, older_than: timedelta) -> list[date]:
    """Drop the days past their time and return those that were."""
    days = await retention.list_old_partitions(queue.pool, older_than)
    return [day for day in days if await retention.drop_partition(queue.pool, day, older_than)]


async def note(queue: QueueSpec, *job_ids: UUID) -> None:
    """Let handlers have said something in jobs."""
    for insert in (
        "INSERT INTO quorra.notes (job_id, updated_at) SELECT unnest($1::uuid[]), now() RETURNING 1",
        "INSERT INTO quorra.log_lines (job_id, batch, position, logged_at, level, message) "
        "SELECT unnest($1::uuid[]), 1, 1, now(), 'info', 'said' RETURNING 1",
    ):
        await queue.pool.fetch(insert, job_ids)


async def noted(queue: QueueSpec) -> list[UUID]:
    """Return the jobs of notes and then those of log lines."""
    left = await queue.pool.fetch("SELECT job_id FROM quorra.notes UNION ALL SELECT job_id FROM quorra.log_lines")
    return [row["job_id"] for row in left]


@pytest.fixture
def no_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a statement is about to be repeated."""

    async def fail() -> None:
        raise AssertionError("the statement is repeated")

    monkeypatch.setattr(database, "_pause_before_repeat", fail)


@asynccontextmanager
async def another_server(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection with a transaction that is rolled back in the end, if it still stands."""
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await connection.execute("ROLLBACK")
    await connection.close()


@asynccontextmanager
async def dropping_halfway(queue: QueueSpec, url: str) -> AsyncIterator[asyncio.Task[list[date]]]:
    """Drop the old day, and stop while it is looked through: somebody holds a note that a job has left behind."""
    await queue.submit_one(id=id_of_the_old_day(), queue="done")
    await queue.succeed(await queue.lease_one(queue="done"))
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue)
    left_behind = id_of_the_old_day()
    await note(queue, left_behind)
    await wait_long_for_locks(queue)
    async with another_server(url) as holder:
        await holder.execute("SELECT FROM quorra.notes WHERE job_id = $1 FOR UPDATE", left_behind)
        dropping = asyncio.create_task(drop_partitions(queue, WEEK))
        await somebody_waits_for(holder)
        yield dropping
        assert not dropping.done()
        await holder.execute("COMMIT")
        await dropping


async def wait_long_for_locks(queue: QueueSpec) -> None:
    """Let dropping wait for whoever holds a lock, where it would give up at once."""
    for function in ("forget_ended", "drop_day"):
        await queue.pool.fetch(f"ALTER FUNCTION quorra.{function} SET lock_timeout = '20s'")


async def somebody_waits_for(holder: Executor) -> None:
    blocked = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    await eventually(lambda: holder.fetch(blocked), "somebody waits")


class Read(NamedTuple):
    """How often tables were looked into, and how many of their rows were read."""

    scans: int
    rows: int


async def read_by(transaction: Executor, work: Awaitable[object], *tables: str) -> Read:
    """Count what some work read of tables, their partitions included."""
    before = await _read_so_far(transaction, tables)
    await work
    after = await _read_so_far(transaction, tables)
    return Read(after.scans - before.scans, after.rows - before.rows)


async def _read_so_far(transaction: Executor, tables: Sequence[str]) -> Read:
    (row,) = await transaction.fetch(
        "SELECT coalesce(sum(seq_scan + idx_scan), 0)::int AS scans, "
        "coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::int AS rows FROM pg_stat_xact_user_tables "
        "WHERE schemaname = 'quorra' AND regexp_replace(relname, '_(\\d{8}|default)$', '') = ANY ($1)",
        tables,
    )
    return Read(row["scans"], row["rows"])


async def test_partitions_are_made_ahead_and_only_once(queue: QueueSpec) -> None:
    assert await retention.make_partitions(queue.pool, 10) == 2
    assert await retention.make_partitions(queue.pool, 10) == 0


async def test_a_day_past_its_time_is_dropped_and_what_must_stay_is_kept(queue: QueueSpec) -> None:
    waiting, held = await queue.submit_one(delay_ms=10**9), await queue.submit_one()
    lease = await queue.lease_one()
    done = await queue.submit_one()
    await queue.succeed(await queue.lease_one())
    dead = await queue.fail_until_dead()
    assert held == lease.job_id
    await leases.close_batches(queue.pool, None)

    # A retention of minus one day makes today old.
    days = await drop_partitions(queue, SINCE_TOMORROW)

    assert len(days) == 1
    assert [await queue.status_of(job_id) for job_id in (waiting, held, dead)] == [
        JobStatus.PENDING,
        JobStatus.LEASED,
        JobStatus.DEAD,
    ]
    assert done not in await queue.places()
    assert await queue.counts() == {JobStatus.PENDING: 1, JobStatus.LEASED: 1, JobStatus.DEAD: 1}


async def test_a_kept_job_can_still_be_settled_and_goes_when_its_own_time_is_over(queue: QueueSpec) -> None:
    await queue.submit_one()
    lease = await queue.lease_one()
    await drop_partitions(queue, SINCE_TOMORROW)

    assert await queue.succeed(lease)
    await leases.close_batches(queue.pool, None)
    pruned = await retention.prune_default(queue.pool, NO_TIME, MONTH, limit=10)

    assert pruned == 1
    assert await queue.places() == {}
    assert await queue.counts() == {}


async def test_a_job_past_its_time_stays_until_the_last_of_its_batch_has_ended(queue: QueueSpec) -> None:
    await queue.submit(2)
    batch = await queue.lease(2)
    assert batch is not None
    over, running = batch.lease_ids()
    await queue.succeed(over)
    await drop_partitions(queue, SINCE_TOMORROW)

    too_early = await retention.prune_default(queue.pool, NO_TIME, MONTH, limit=10)
    await queue.succeed(running)
    closed = await leases.close_batches(queue.pool, None)
    pruned = await retention.prune_default(queue.pool, NO_TIME, MONTH, limit=10)

    assert (0, {batch.batch}, 2) == (too_early, closed, pruned)
    assert {} == await queue.counts()


@pytest.mark.parametrize("kind", ["job", "outcome"])
async def test_what_lies_in_the_default_partition_moves_when_its_day_is_made(queue: QueueSpec, kind: str) -> None:
    """One such row ended the making of partitions, and all retention, for good."""
    job_id = await queue.submit_one(id=id_in_days(9) if kind == "job" else None)
    if kind == "outcome":
        await queue.succeed(await queue.lease_one())
        await leases.close_batches(queue.pool, None)
        await queue.pool.fetch("UPDATE quorra.outcomes SET batch = batch + ($1::bigint << 20) RETURNING 1", 9 * DAY_MS)

    made = await retention.make_partitions(queue.pool, 10)

    (left,) = await queue.pool.fetch(
        "SELECT (SELECT count(*) FROM quorra.jobs_default) + (SELECT count(*) FROM quorra.outcomes_default) AS rows"
    )
    assert (2, 0) == (made, left["rows"])
    assert {job_id: ["ready" if kind == "job" else "ended"]} == await queue.places()


async def test_a_day_with_many_rows_in_the_default_partition_stays_there(queue: QueueSpec) -> None:
    """Moving them would hold everybody up for long."""
    await queue.pool.fetch(
        "INSERT INTO quorra.jobs (id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload) "
        "SELECT (left($1::uuid::text, 24) || lpad(number::text, 12, '0'))::uuid, now(), now(), 0, 0, 3, 't', 'q', '{}' "
        "FROM generate_series(1, 10001) AS number RETURNING 1",
        id_in_days(9),
    )

    assert 1 == await retention.make_partitions(queue.pool, 10)


async def test_a_step_that_fails_does_not_keep_the_others_from_theirs(queue: QueueSpec) -> None:
    await keys.claim_keys(queue.pool, [(OLD_KEY, uuid4())])
    age = REQUEST_KEYS_KEPT + timedelta(seconds=1)
    await queue.pool.fetch("UPDATE quorra.keys SET created_at = created_at - $1::interval RETURNING 1", age)
    await queue.pool.fetch("ALTER FUNCTION quorra.make_partitions RENAME TO broken")

    more = await PruneHistory(queue.pool, succeeded_days=7, dead_days=30).run_once()

    assert not more
    assert {} == await keys.find_keys(queue.pool, [OLD_KEY])


@pytest.mark.usefixtures("no_repeats")
@pytest.mark.parametrize("held", ["jobs", "outcomes"])
async def test_partitions_are_neither_made_nor_dropped_while_somebody_holds_a_table(
    queue: QueueSpec, database_url: str, held: str
) -> None:
    """Whoever comes after a change that waits for a lock waits behind it: a nightly dump held everybody up so."""
    async with another_server(database_url) as reader:
        await reader.execute(f"SELECT FROM quorra.{held}")

        with pytest.raises(StorageUnavailable) as made:
            await retention.make_partitions(queue.pool, 10)
        with pytest.raises(StorageUnavailable) as dropped:
            await drop_partitions(queue, SINCE_TOMORROW)

    assert [asyncpg.LockNotAvailableError] * 2 == [type(error.value.__cause__) for error in (made, dropped)]


@pytest.mark.usefixtures("no_repeats")
async def test_dropping_locks_in_the_order_of_a_settle(queue: QueueSpec, database_url: str) -> None:
    await wait_long_for_locks(queue)
    async with another_server(database_url) as settling:
        await settling.execute("SELECT FROM quorra.outcomes")
        dropping = asyncio.create_task(drop_partitions(queue, SINCE_TOMORROW))
        await somebody_waits_for(settling)

        await settling.execute("SELECT FROM quorra.jobs")
        await settling.execute("COMMIT")

        assert 1 == len(await dropping)


async def test_one_server_changes_partitions_and_the_others_pass_by(queue: QueueSpec, database_url: str) -> None:
    (today,) = (await queue.pool.fetch("SELECT (now() AT TIME ZONE 'UTC')::date AS day"))[0]
    async with another_server(database_url) as first:
        await first.fetch("SELECT quorra.make_partitions($1, 10)", today)
        made = await retention.make_partitions(queue.pool, 10)
        await first.fetch("SELECT quorra.drop_partition($1, $2)", today, MONTH)
        dropped = await drop_partitions(queue, SINCE_TOMORROW)
        await first.execute("COMMIT")

    (gone,) = await queue.pool.fetch("SELECT quorra.drop_partition($1, $2) AS kept", today, MONTH)
    assert (0, [], None) == (made, dropped, gone["kept"])


async def test_dropping_a_day_does_not_look_each_of_its_jobs_up(queue: QueueSpec) -> None:
    """A day of a million jobs took longer than a statement may, and everybody waited meanwhile."""
    jobs = 100
    await queue.submit(jobs)
    batch = await queue.lease(jobs)
    assert batch is not None
    for lease in batch.lease_ids():
        await queue.succeed(lease)
    await leases.close_batches(queue.pool, None)

    async with queue.pool.transaction() as transaction:
        dropping = transaction.fetch("SELECT quorra.drop_partition((now() AT TIME ZONE 'UTC')::date, $1)", MONTH)
        read = await read_by(transaction, dropping, "ready", "leases", "notes", "log_lines")

    assert read.scans < jobs
    assert {} == await queue.places()
    assert {} == await queue.counts()


async def test_what_handlers_said_goes_and_stays_with_the_jobs(queue: QueueSpec) -> None:
    done = await queue.submit_one()
    await queue.succeed(await queue.lease_one())
    await leases.close_batches(queue.pool, None)
    waiting = await queue.submit_one()
    await note(queue, done, waiting)

    await drop_partitions(queue, SINCE_TOMORROW)

    assert [waiting, waiting] == await noted(queue)


@pytest.mark.usefixtures("old_day")
async def test_a_dead_job_stays_when_its_day_is_dropped_until_its_own_time_is_over(queue: QueueSpec) -> None:
    dead = await queue.fail_until_dead(id=id_of_the_old_day())
    await note(queue, dead)
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue)

    days = await drop_partitions(queue, WEEK)
    places, said = await queue.places(), await noted(queue)
    pruned = await retention.prune_default(queue.pool, WEEK, timedelta(days=OLD_DAYS - 1), limit=10)

    assert (1, {dead: ["ended"]}, [dead, dead]) == (len(days), places, said)
    assert (1, {}, {}, []) == (pruned, await queue.places(), await queue.counts(), await noted(queue))


@pytest.mark.usefixtures("old_day")
@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.CANCELLED])
async def test_a_job_that_ran_for_days_stays_for_its_whole_time_after_its_end(
    queue: QueueSpec, status: JobStatus
) -> None:
    """A day is named for when its jobs were leased: what ended just before it was dropped went at once."""
    job_id = await queue.submit_one(id=id_of_the_old_day())
    lease = await queue.lease_one()
    await (queue.succeed(lease) if status is JobStatus.SUCCEEDED else queue.cancel(job_id))
    await note(queue, job_id)
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue, ended=False)
    await queue.pool.fetch("UPDATE quorra.outcomes SET ended_at = ended_at - interval '1 hour' RETURNING 1")

    days = await drop_partitions(queue, WEEK)

    assert (1, status) == (len(days), await queue.status_of(job_id))
    assert {status: 1} == await queue.counts()
    assert [job_id, job_id] == await noted(queue)


@pytest.mark.usefixtures("old_day")
async def test_a_job_that_ran_for_days_goes_when_its_own_time_is_over(queue: QueueSpec) -> None:
    await queue.submit_one(id=id_of_the_old_day())
    await queue.succeed(await queue.lease_one())
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue, ended=False)
    await drop_partitions(queue, WEEK)

    pruned = await retention.prune_default(queue.pool, NO_TIME, MONTH, limit=10)

    assert (1, {}, {}) == (pruned, await queue.places(), await queue.counts())


@pytest.mark.usefixtures("old_day")
async def test_a_job_that_ended_after_its_day_and_is_past_its_time_goes_with_the_day(queue: QueueSpec) -> None:
    """All that runs over midnight would be moved else, while everybody waits."""
    await queue.submit_one(id=id_of_the_old_day())
    await queue.succeed(await queue.lease_one())
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue)
    await queue.pool.fetch("UPDATE quorra.outcomes SET ended_at = ended_at + interval '1 day' RETURNING 1")

    days = await drop_partitions(queue, WEEK)

    assert (1, {}, {}) == (len(days), await queue.places(), await queue.counts())


@pytest.mark.usefixtures("old_day")
async def test_a_server_of_the_version_before_keeps_all_that_ended_after_the_day(queue: QueueSpec) -> None:
    """It does not say for how long jobs stay."""
    late, _ = [await queue.submit_one(id=id_of_the_old_day()) for _ in range(2)]
    for _ in range(2):
        await queue.succeed(await queue.lease_one())
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue)
    await queue.pool.fetch(
        "UPDATE quorra.outcomes SET ended_at = ended_at + interval '1 day' WHERE job_id = $1 RETURNING 1", late
    )
    (day,) = await retention.list_old_partitions(queue.pool, WEEK)

    await queue.pool.fetch("SELECT quorra.drop_partition($1, $2)", day, MONTH)

    assert {late: ["ended"]} == await queue.places()
    assert {JobStatus.SUCCEEDED: 1} == await queue.counts()


async def a_talkative_job_of_the_old_day(queue: QueueSpec, lines: int) -> None:
    job_id = await queue.submit_one(id=id_of_the_old_day())
    await queue.succeed(await queue.lease_one())
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue)
    await queue.pool.fetch(
        "INSERT INTO quorra.log_lines (job_id, batch, position, logged_at, level, message) "
        "SELECT $1, 1, position, now(), 'info', 'said' FROM generate_series(1, $2::int) AS position RETURNING 1",
        job_id,
        lines,
    )


@asynccontextmanager
async def impatient_pool(url: str) -> AsyncIterator[Pool]:
    """Open a pool whose statements may take `IMPATIENT_SECONDS`."""
    pool = Pool(PoolSettings(through_pooler(url), 2, 5, IMPATIENT_SECONDS, prepared_statements=not is_pooled()))
    await pool.open()
    yield pool
    await pool.close()


@pytest.mark.usefixtures("old_day")
async def test_a_day_with_more_log_lines_than_a_statement_can_remove_is_dropped(
    queue: QueueSpec, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round began with all of them, and was undone by its timeout: the day stayed for ever."""
    monkeypatch.setattr(retention, "PAGE_ROWS", 2)
    await a_talkative_job_of_the_old_day(queue, lines=12)
    await queue.pool.fetch(
        "CREATE FUNCTION public.slowly() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM pg_sleep({IMPATIENT_SECONDS / 10}); RETURN OLD; END'"
    )
    await queue.pool.fetch(
        "CREATE TRIGGER slowly BEFORE DELETE ON quorra.log_lines FOR EACH ROW EXECUTE FUNCTION public.slowly()"
    )

    async with impatient_pool(database_url) as pool:
        (day,) = await retention.list_old_partitions(pool, WEEK)
        dropped = await retention.drop_partition(pool, day, WEEK)

    assert (True, {}, []) == (dropped, await queue.places(), await noted(queue))


@pytest.mark.usefixtures("old_day")
async def test_what_handlers_said_goes_page_by_page(queue: QueueSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE_ROWS", 2)
    await a_talkative_job_of_the_old_day(queue, lines=5)
    for statement in (
        "CREATE TABLE public.removals (lines bigint)",
        "CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO public.removals SELECT count(*) FROM gone; RETURN NULL; END'",
        "CREATE TRIGGER tell AFTER DELETE ON quorra.log_lines REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION public.tell()",
    ):
        await queue.pool.fetch(statement)

    await drop_partitions(queue, WEEK)

    removals = await queue.pool.fetch("SELECT lines FROM public.removals WHERE lines > 0 ORDER BY lines DESC")
    assert [2, 2, 1] == [row["lines"] for row in removals]


@pytest.mark.usefixtures("old_day")
async def test_a_day_may_be_looked_through_for_longer_than_a_statement_takes(
    queue: QueueSpec, database_url: str
) -> None:
    """A day of many jobs takes long to count, and stayed for ever."""
    (day,) = await retention.list_old_partitions(queue.pool, WEEK)
    await queue.pool.fetch(
        "CREATE OR REPLACE FUNCTION quorra.may_change_partitions() RETURNS boolean LANGUAGE sql AS "
        f"'SELECT true FROM pg_catalog.pg_sleep({IMPATIENT_SECONDS * 1.2})'"
    )

    async with impatient_pool(database_url) as pool:
        dropped = await retention.drop_partition(pool, day, WEEK)

    assert dropped


@pytest.mark.usefixtures("old_day")
async def test_a_day_that_cannot_be_dropped_is_told_and_does_not_keep_the_next_one(queue: QueueSpec) -> None:
    """All newer days stayed with it, and nothing said which one it was."""
    (next_one,) = await retention.list_old_partitions(queue.pool, WEEK)
    broken = next_one - timedelta(days=1)
    await queue.pool.fetch("SELECT quorra.make_partitions($1, 1)", broken)
    await queue.pool.fetch(f"ALTER TABLE quorra.jobs_{broken:%Y%m%d} RENAME TO away")

    with structlog.testing.capture_logs() as lines:
        await PruneHistory(queue.pool, succeeded_days=7, dead_days=30).run_once()

    told = [(line["log_level"], line["day"]) for line in lines if line["event"] == "day_not_dropped"]
    assert [("warning", broken.isoformat())] == told
    assert [broken] == await retention.list_old_partitions(queue.pool, WEEK)


@pytest.mark.usefixtures("old_day")
@pytest.mark.parametrize(
    "change",
    [
        lambda queue, job_id: jobs.reschedule_jobs(queue.pool, [job_id], priority=1),
        lambda queue, job_id: jobs.replace_payload(queue.pool, [job_id], "{}"),
        lambda queue, _: jobs.purge_waiting(queue.pool, "default", limit=1),
        lambda queue, _: retention.prune_default(queue.pool, WEEK, MONTH, limit=1),
    ],
    ids=["reschedule", "replace", "purge", "prune"],
)
async def test_a_day_is_dropped_although_others_change_jobs_meanwhile(
    queue: QueueSpec, database_url: str, change: Callable[[QueueSpec, UUID], Awaitable[object]]
) -> None:
    """They held the tables and waited for the day; then dropping waited for the tables, and gave up each round."""
    job_id = await queue.submit_one()

    async with dropping_halfway(queue, database_url) as dropping:
        await change(queue, job_id)

    assert 1 == len(dropping.result())
    assert {} == await queue.counts("done")


@pytest.mark.usefixtures("old_day")
@pytest.mark.parametrize("place", ["ready", "held", "ended"])
async def test_a_dead_job_that_is_replayed_while_its_day_is_dropped_stays(
    queue: QueueSpec, database_url: str, place: str
) -> None:
    dead = await queue.fail_until_dead(id=id_of_the_old_day())
    await note(queue, dead)

    async with dropping_halfway(queue, database_url) as dropping:
        await jobs.replay_dead(queue.pool, [dead])
        if place != "ready":
            again = await queue.lease_one()
        if place == "ended":
            await queue.succeed(again)
            await leases.close_batches(queue.pool, None)

    status = {"ready": JobStatus.PENDING, "held": JobStatus.LEASED, "ended": JobStatus.SUCCEEDED}[place]
    assert 1 == len(dropping.result())
    assert {dead: [place]} == await queue.places()
    assert {status: 1} == await queue.counts()
    assert [dead, dead] == await noted(queue)
    assert "failed" in await queue.history_of(dead)


@pytest.mark.usefixtures("old_day")
async def test_a_dead_job_whose_replay_dropping_waits_for_stays(queue: QueueSpec) -> None:
    """What stays is named once nobody can change it any more."""
    dead = await queue.fail_until_dead(id=id_of_the_old_day())
    await leases.close_batches(queue.pool, None)
    await move_to_the_old_day(queue)
    await wait_long_for_locks(queue)
    async with queue.pool.transaction() as replaying:
        await jobs.replay_dead(replaying, [dead])
        dropping = asyncio.create_task(drop_partitions(queue, WEEK))
        await somebody_waits_for(replaying)

    assert 1 == len(await dropping)
    assert {dead: ["ready"]} == await queue.places()
    assert {JobStatus.PENDING: 1} == await queue.counts()


@pytest.mark.usefixtures("old_day")
async def test_a_job_with_an_id_of_the_day_that_comes_while_it_is_dropped_stays(
    queue: QueueSpec, database_url: str
) -> None:
    async with dropping_halfway(queue, database_url) as dropping:
        job_id = await queue.submit_one(id=id_of_the_old_day())
        await note(queue, job_id)

    assert 1 == len(dropping.result())
    assert {job_id: ["ready"]} == await queue.places()
    assert [job_id, job_id] == await noted(queue)


@pytest.mark.usefixtures("old_day")
@pytest.mark.parametrize("is_closed", [True, False])
async def test_what_ends_in_a_batch_of_the_day_while_it_is_dropped_stays(
    queue: QueueSpec, database_url: str, is_closed: bool
) -> None:
    job_ids = {await queue.submit_one(id=id_of_the_old_day()), await queue.submit_one()}
    batch = await queue.lease(2)
    assert batch is not None
    await note(queue, *job_ids)

    async with dropping_halfway(queue, database_url) as dropping:
        for lease in batch.lease_ids():
            await queue.succeed(lease._replace(batch=batch.batch - (OLD_DAYS * DAY_MS << 20)))
        if is_closed:
            await leases.close_batches(queue.pool, None)

    assert 1 == len(dropping.result())
    assert {job_id: ["ended"] for job_id in job_ids} == await queue.places()
    assert {JobStatus.SUCCEEDED: 2} == await queue.counts()
    assert job_ids == set(await noted(queue))


@pytest.mark.parametrize(
    "change",
    [
        lambda queue: retention.make_partitions(queue.pool, 10),
        lambda queue: drop_partitions(queue, SINCE_TOMORROW),
    ],
    ids=["make", "drop"],
)
async def test_nobody_waits_while_a_vacuum_is_waited_for(
    queue: QueueSpec, database_url: str, change: Callable[[QueueSpec], Awaitable[object]]
) -> None:
    """PostgreSQL ends an autovacuum only for whoever has waited for a second: before, each round gave up."""
    async with another_server(database_url) as vacuum:
        await vacuum.execute("LOCK TABLE quorra.jobs_default IN SHARE UPDATE EXCLUSIVE MODE")
        changing = asyncio.ensure_future(change(queue))
        await somebody_waits_for(vacuum)
        submitted = await queue.submit_one(id=uuid4())
        was_done = changing.done()
        await vacuum.execute("COMMIT")

    assert await changing
    assert not was_done
    assert {submitted: ["ready"]} == await queue.places()


async def test_pruning_does_not_read_what_ended_lately(queue: QueueSpec) -> None:
    """Each call walked over the outcomes of all days there are."""
    jobs = 100
    for _ in range(jobs):
        await queue.submit_one(id=uuid4())
    batch = await queue.lease(jobs)
    assert batch is not None
    for lease in batch.lease_ids():
        await queue.succeed(lease)
    await leases.close_batches(queue.pool, None)

    async with queue.pool.transaction() as transaction:
        pruning = retention.prune_default(transaction, WEEK, MONTH, limit=10)
        read = await read_by(transaction, pruning, "outcomes")

    assert 0 == read.rows
    assert jobs == await retention.prune_default(queue.pool, NO_TIME, MONTH, limit=1_000)


@pytest.mark.parametrize("day", [-60, 60])
async def test_a_job_with_an_id_of_any_time_is_pruned(queue: QueueSpec, day: int) -> None:
    await queue.submit_one(id=id_in_days(day))
    await queue.succeed(await queue.lease_one())
    await leases.close_batches(queue.pool, None)

    assert 1 == await retention.prune_default(queue.pool, NO_TIME, MONTH, limit=10)
    assert {} == await queue.places()


async def test_request_keys_are_forgotten_oldest_first_and_others_stay(queue: QueueSpec) -> None:
    newer, live = Key("request:somebody", "a"), Key(keys.LIVE_SCOPE, "k")
    await keys.claim_keys(queue.pool, [(key, uuid4()) for key in (OLD_KEY, newer, live)])
    await queue.pool.fetch(
        "UPDATE quorra.keys SET created_at = created_at - CASE WHEN key = 'k' THEN interval '3 d' ELSE '2 d' END "
        "RETURNING 1"
    )

    forgotten = await keys.forget_request_keys(queue.pool, REQUEST_KEYS_KEPT, limit=1)

    assert 1 == forgotten
    assert {newer, live} == (await keys.find_keys(queue.pool, [OLD_KEY, newer, live])).keys()


async def test_a_migration_takes_an_index_of_the_keys_that_was_made_before(queue: QueueSpec, database_url: str) -> None:
    """Made in the migration, it holds up every settle for as long as that takes."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP INDEX quorra.keys_requested")
    await connection.execute("DELETE FROM quorra.migrations WHERE number >= 11")
    await connection.execute(
        "CREATE INDEX CONCURRENTLY keys_requested ON quorra.keys (created_at) WHERE scope <> 'live'"
    )
    made = await connection.fetchval("SELECT 'quorra.keys_requested'::regclass::oid")

    applied = await migrate(database_url)

    assert "0011_partitions_hold_nobody_up" == applied[0]
    assert made == await connection.fetchval("SELECT 'quorra.keys_requested'::regclass::oid")
    await connection.close()
