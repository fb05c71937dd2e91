"""Waiting jobs that the lease statement meets a bug on: they are put off, and the rest of their queue is leased."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import pytest
import structlog
from quorra_server.domain.job import LeaseBatch
from quorra_server.domain.states import JobStatus
from quorra_server.observability.metrics import Metrics
from quorra_server.services.loops.parking import PARKED_SECONDS, TRIES_MAX
from quorra_server.services.untakable import FOUND_MAX, REMEMBERED_SECONDS, Untakable
from quorra_server.storage import leases

from tests.support.poison import untakable
from tests.support.queue_spec import LEASE_SECONDS, PRINCIPAL, QueueSpec

JOBS = 30


@dataclass
class Leasing:
    """Leases of one server, by a clock that stands until it is moved."""

    queue: QueueSpec
    metrics: Metrics = field(default_factory=lambda: Metrics("0", "test"))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.service = Untakable(self.queue.pool, self.metrics, lambda: self.now)

    async def lease(self, limit: int = JOBS, types: list[str] | None = None) -> list[UUID]:
        """Lease jobs and return their ids; a bug is raised."""
        take = partial(
            leases.lease_jobs,
            worker="w",
            principal=PRINCIPAL,
            lease_ms=LEASE_SECONDS * 1000,
            secret=uuid4(),
        )
        batch = await self.service.lease_jobs(take, "default", types, limit)
        return _ids(batch)

    async def meet_bugs(self, times: int = TRIES_MAX, limit: int = JOBS) -> None:
        for _ in range(times):
            with pytest.raises(asyncpg.DivisionByZeroError):
                await self.lease(limit)

    def incidents(self) -> float:
        return float(self.metrics.counted.get_sample_value("quorra_incidents_total", {"at": "lease_jobs"}) or 0)


def _ids(batch: LeaseBatch | None) -> list[UUID]:
    return [] if batch is None else [job.job_id for job in batch.jobs]


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[structlog.typing.EventDict]]:
    """What is logged; a traceback on a terminal would take longer than the test."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def leasing(queue: QueueSpec) -> Leasing:
    return Leasing(queue)


@pytest.mark.parametrize("place", [0, 13, JOBS - 1])
async def test_after_three_bugs_all_others_are_leased(leasing: Leasing, database_url: str, place: int) -> None:
    job_ids = await leasing.queue.submit(JOBS)
    others = [job_id for job_id in job_ids if job_id != job_ids[place]]

    async with untakable(database_url, job_ids[place]):
        await leasing.meet_bugs()
        leased = await leasing.lease()

    assert others == leased
    assert JobStatus.PENDING == await leasing.queue.status_of(job_ids[place])
    assert PARKED_SECONDS - 10 < await leasing.queue.seconds_until_due(job_ids[place]) <= PARKED_SECONDS


async def test_a_bug_that_comes_twice_parks_nothing(leasing: Leasing, database_url: str) -> None:
    """It may be of the moment, as when a table was altered just then."""
    job_ids = await leasing.queue.submit(JOBS)
    async with untakable(database_url, job_ids[5]):
        await leasing.meet_bugs(TRIES_MAX - 1)
        leasing.now += REMEMBERED_SECONDS
        await leasing.meet_bugs(TRIES_MAX - 1)

    assert job_ids == await leasing.lease()


async def test_a_parked_job_is_leased_when_it_is_due_and_the_bug_is_mended(leasing: Leasing, database_url: str) -> None:
    culprit = (await leasing.queue.submit(JOBS))[13]
    async with untakable(database_url, culprit):
        await leasing.meet_bugs()
        await leasing.lease()

    before = await leasing.lease()
    await leasing.queue.pass_time(PARKED_SECONDS)

    assert [] == before
    assert [culprit] == await leasing.lease()


async def test_one_that_meets_the_bug_again_after_a_minute_is_parked_again_at_once(
    leasing: Leasing, database_url: str
) -> None:
    culprit, other = await leasing.queue.submit(2)
    async with untakable(database_url, culprit):
        await leasing.meet_bugs()
        await leasing.queue.pass_time(PARKED_SECONDS)
        leasing.now += PARKED_SECONDS
        await leasing.meet_bugs(1)

        assert [other] == await leasing.lease()


async def test_each_culprit_is_logged_under_an_incident_of_its_own_and_counted(
    leasing: Leasing, database_url: str, lines: list[structlog.typing.EventDict]
) -> None:
    job_ids = await leasing.queue.submit(JOBS)
    culprits = [job_ids[3], job_ids[4], job_ids[20]]
    async with untakable(database_url, *culprits):
        await leasing.meet_bugs()

    parked = [line for line in lines if line["event"] == "job_parked"]
    assert [(str(job_id), "default", 60) for job_id in culprits] == [
        (line["job"], line["queue"], line["seconds"]) for line in parked
    ]
    assert 3 == len({line["incident"] for line in parked})
    assert 3 == leasing.incidents()


async def test_very_many_culprits_are_parked_some_at_a_time(leasing: Leasing, database_url: str) -> None:
    job_ids = await leasing.queue.submit(FOUND_MAX + 5)
    async with untakable(database_url, *job_ids):
        await leasing.meet_bugs()
        after_one_search = leasing.incidents()
        await leasing.meet_bugs(1)

        assert [] == await leasing.lease()

    assert (FOUND_MAX, len(job_ids)) == (after_one_search, leasing.incidents())


async def test_the_order_of_priorities_finds_the_culprit_too(leasing: Leasing, database_url: str) -> None:
    await leasing.queue.submit(5, priority=0)
    culprit = (await leasing.queue.submit(5, priority=9))[2]
    await leasing.queue.submit(5, priority=5)
    async with untakable(database_url, culprit):
        await leasing.meet_bugs(limit=12)
        leased = await leasing.lease()

    assert 14 == len(leased)
    assert culprit not in leased


async def test_a_culprit_of_a_type_that_nobody_asks_for_is_left_alone(leasing: Leasing, database_url: str) -> None:
    culprit = await leasing.queue.submit_one(type="odd")
    others = await leasing.queue.submit(3, type="even")
    async with untakable(database_url, culprit):
        await leasing.meet_bugs()
        await leasing.queue.pass_time(PARKED_SECONDS)

        assert others == await leasing.lease(types=["even"])
    assert [culprit] == await leasing.lease()


async def test_jobs_that_another_lease_is_taking_are_passed_by_and_not_blamed(
    leasing: Leasing, database_url: str
) -> None:
    job_ids = await leasing.queue.submit(JOBS)
    async with untakable(database_url, job_ids[9]):
        async with leasing.queue.pool.transaction() as transaction:
            await leases.lock_waiting(transaction, queue="default", limit=5)
            await leasing.meet_bugs()
        leased = await leasing.lease()

    assert [job_id for job_id in job_ids if job_id != job_ids[9]] == leased
    assert 1 == leasing.incidents()


async def test_a_statement_that_is_broken_for_every_job_parks_none(leasing: Leasing, database_url: str) -> None:
    job_ids = await leasing.queue.submit(3)
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE quorra.leases RENAME COLUMN secret TO renamed")
    for _ in range(2 * TRIES_MAX):
        with pytest.raises(asyncpg.UndefinedColumnError):
            await leasing.lease()
    await connection.execute("ALTER TABLE quorra.leases RENAME COLUMN renamed TO secret")
    await connection.close()

    assert job_ids == await leasing.lease()
    assert 0 == leasing.incidents()


async def test_a_bug_that_jobs_meet_only_together_parks_none(leasing: Leasing, database_url: str) -> None:
    job_ids = await leasing.queue.submit(5)
    connection = await asyncpg.connect(database_url)
    # A batch of more than three members breaks it.
    await connection.execute(
        "ALTER TABLE quorra.leases ADD CONSTRAINT small CHECK (1 / greatest(4 - cardinality(job_ids), 0) >= 0)"
    )
    await leasing.meet_bugs()
    leased = await leasing.lease(limit=3)
    await connection.close()

    assert job_ids[:3] == leased
    assert 0 == leasing.incidents()
