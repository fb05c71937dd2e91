"""Lease batches whose end meets a bug: others end all the same, and they themselves once the bug is mended."""

from collections.abc import Callable
from dataclasses import dataclass

import asyncpg
import pytest
import structlog
from quorra_server.domain.job import LeaseId
from quorra_server.observability.metrics import Metrics
from quorra_server.services.loops.expire_leases import ExpireLeases
from quorra_server.services.loops.parking import PARKED_SECONDS, PAUSE_SECONDS, TRIES_MAX
from quorra_server.services.loops.time_out_runs import TimeOutRuns
from quorra_server.services.wakeups import Wakeups

from tests.support.poison import broken_statements, poisoned
from tests.support.queue_spec import LEASE_SECONDS, TIMEOUT_GRACE_SECONDS, QueueSpec

TIMEOUT_SECONDS = 10


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ending:
    """One of the two loops that end leases, and what is overdue for it: each lease in a batch of its own."""

    loop: ExpireLeases | TimeOutRuns
    clock: Clock
    overdue: list[LeaseId]
    queue: QueueSpec

    async def have_ended(self) -> list[bool]:
        return [await self.queue.history_of(lease.job_id) == ["expired"] for lease in self.overdue]

    async def try_often(self) -> None:
        """Go on until what meets a bug is parked."""
        for _ in range(TRIES_MAX):
            await self.loop.run_once()
            self.clock.now += PAUSE_SECONDS


@pytest.fixture(params=["expiry", "time-out"])
async def ending(request: pytest.FixtureRequest, queue: QueueSpec) -> Ending:
    metrics, clock = Metrics("0", "test"), Clock()
    wakeups = Wakeups("test", [], metrics)
    make: Callable[..., ExpireLeases | TimeOutRuns] = ExpireLeases if request.param == "expiry" else TimeOutRuns
    timeout_ms = 0 if request.param == "expiry" else TIMEOUT_SECONDS * 1000
    await queue.submit(5, timeout_ms=timeout_ms)
    lease_seconds = LEASE_SECONDS if request.param == "expiry" else 3_600
    overdue = [await queue.lease_one(lease_ms=lease_seconds * 1000) for _ in range(5)]
    await queue.start(*overdue)
    await queue.pass_time(max(LEASE_SECONDS, TIMEOUT_SECONDS + TIMEOUT_GRACE_SECONDS) + 1)
    return Ending(make(queue.pool, wakeups, metrics, clock), clock, overdue, queue)


async def test_others_end_in_the_very_round_in_which_some_meet_a_bug(ending: Ending, database_url: str) -> None:
    async with poisoned(database_url, ending.overdue[0].job_id, ending.overdue[3].job_id):
        await ending.loop.run_once()
        ended = await ending.have_ended()

    assert [False, True, True, False, True] == ended


async def test_after_three_tries_it_is_left_alone_for_a_minute(ending: Ending, database_url: str) -> None:
    moments = (0, 0.9, 1, 1.9, 2, 3, 61.9, 62)
    assert (1, 60) == (PAUSE_SECONDS, PARKED_SECONDS)

    tried_at = []
    async with poisoned(database_url, ending.overdue[2].job_id) as poison:
        for moment in moments:
            before, ending.clock.now = await poison.tries(), moment
            await ending.loop.run_once()
            if await poison.tries() > before:
                tried_at.append(moment)

    assert [0, 1, 2, 62] == tried_at


async def test_a_round_that_ends_nothing_asks_for_no_other_at_once(ending: Ending, database_url: str) -> None:
    async with poisoned(database_url, *[lease.job_id for lease in ending.overdue]):
        assert not await ending.loop.run_once()


async def test_once_the_bug_is_mended_a_parked_batch_ends_too(ending: Ending, database_url: str) -> None:
    culprit = ending.overdue[2]
    async with poisoned(database_url, culprit.job_id):
        await ending.try_often()

    await ending.loop.run_once()
    before = await ending.have_ended()
    ending.clock.now += PARKED_SECONDS
    await ending.loop.run_once()

    assert [True, True, False, True, True] == before
    assert [True] * 5 == await ending.have_ended()


async def test_it_is_logged_as_an_error_with_an_incident_id_when_it_is_parked(
    ending: Ending, database_url: str
) -> None:
    culprit = ending.overdue[2]
    with structlog.testing.capture_logs() as lines:
        async with poisoned(database_url, culprit.job_id):
            await ending.try_often()

    errors = [line for line in lines if line["log_level"] == "error"]
    assert [("batch_parked", culprit.batch)] == [(line["event"], line["batch"]) for line in errors]
    assert 12 == len(errors[0]["incident"])


async def test_a_bug_that_every_batch_would_meet_parks_none(ending: Ending, database_url: str) -> None:
    async with broken_statements(database_url):
        for _ in range(TRIES_MAX):
            with pytest.raises(asyncpg.UndefinedColumnError):
                await ending.loop.run_once()
    await ending.loop.run_once()

    assert [True] * 5 == await ending.have_ended()
