"""A report that meets a bug is settled apart from all others, tried three times, and given up with an incident id."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
import structlog
from quorra_server.domain.job import LeaseId, Report
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.observability.metrics import Metrics
from quorra_server.services import settle
from quorra_server.services.acknowledged import Acknowledged
from quorra_server.services.settle import SettleService, Undecided
from quorra_server.services.wakeups import Wakeups

from tests.support.poison import broken_statements, poisoned
from tests.support.queue_spec import PRINCIPAL, QueueSpec


@pytest.fixture
def service(queue: QueueSpec, monkeypatch: pytest.MonkeyPatch) -> SettleService:
    """A settle service that pauses for a moment only."""
    monkeypatch.setattr(settle, "BUG_PAUSES_SECONDS", [0.0 for _ in settle.BUG_PAUSES_SECONDS])
    metrics = Metrics("0", "test")
    return SettleService(queue.pool, Wakeups("test", [], metrics), metrics, Acknowledged())


async def _leased(queue: QueueSpec, count: int) -> list[LeaseId]:
    await queue.submit(count)
    batch = await queue.lease(count)
    assert batch is not None
    return batch.lease_ids()


def _successes(leases: Sequence[LeaseId]) -> list[Report]:
    return [Report(lease, OutcomeKind.SUCCEEDED, 1) for lease in leases]


async def _statuses(queue: QueueSpec, leases: Sequence[LeaseId]) -> list[JobStatus]:
    return [await queue.status_of(lease.job_id) for lease in leases]


async def test_the_neighbours_in_the_message_settle_and_the_culprits_are_named_with_an_incident_each(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    leases = await _leased(queue, 9)
    culprits = [leases[2], leases[7]]

    async with poisoned(database_url, *[lease.job_id for lease in culprits]):
        undecided = await service.settle_attempts(_successes(leases), PRINCIPAL)

    statuses = await _statuses(queue, leases)
    assert [] == undecided.refused
    assert culprits == [met.report.lease for met in undecided.incidents]
    assert 2 == len({met.incident for met in undecided.incidents})
    assert [JobStatus.LEASED if lease in culprits else JobStatus.SUCCEEDED for lease in leases] == statuses


async def test_callers_whose_reports_share_its_statement_are_answered_as_if_it_were_not_there(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    culprit, *others = await _leased(queue, 4)

    async with poisoned(database_url, culprit.job_id):
        first, *rest = await asyncio.gather(
            *(service.settle_attempts(_successes([lease]), PRINCIPAL) for lease in (culprit, *others))
        )

    assert [culprit] == [met.report.lease for met in first.incidents]
    assert [Undecided([], [])] * 3 == rest
    assert [JobStatus.SUCCEEDED] * 3 == await _statuses(queue, others)


async def test_a_repetition_beside_a_culprit_is_told_what_stands(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    culprit, repeated = await _leased(queue, 2)
    await queue.succeed(repeated)

    async with poisoned(database_url, culprit.job_id):
        undecided = await service.settle_attempts(_successes([culprit, repeated]), PRINCIPAL)

    assert [(repeated, True)] == [(settled.lease, settled.is_repeat) for settled in undecided.refused]
    assert [culprit] == [met.report.lease for met in undecided.incidents]


async def test_it_is_tried_three_times_and_logged_once(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    (culprit,) = await _leased(queue, 1)

    with structlog.testing.capture_logs() as lines:
        async with poisoned(database_url, culprit.job_id) as poison:
            undecided = await service.settle_attempts(_successes([culprit]), PRINCIPAL)
            tries = await poison.tries()

    assert 3 == tries
    assert [(undecided.incidents[0].incident, str(culprit.job_id))] == [
        (line["incident"], line["job"]) for line in lines if line["log_level"] == "error"
    ]


async def test_a_bug_that_passes_costs_nothing_but_a_moment(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    leases = await _leased(queue, 3)

    async with poisoned(database_url, leases[1].job_id, times=4):
        undecided = await service.settle_attempts(_successes(leases), PRINCIPAL)

    assert Undecided([], []) == undecided
    assert [JobStatus.SUCCEEDED] * 3 == await _statuses(queue, leases)


async def test_who_reports_one_outcome_is_told_the_bug_itself_and_only_if_it_is_his(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    leases = await _leased(queue, 3)

    async with poisoned(database_url, leases[0].job_id):
        bug, *others = await asyncio.gather(
            *(service.settle_attempt(report, PRINCIPAL) for report in _successes(leases)), return_exceptions=True
        )

    assert isinstance(bug, asyncpg.DivisionByZeroError)
    assert [JobStatus.SUCCEEDED] * 2 == [found.status for found in others if not isinstance(found, BaseException)]


async def test_a_bug_that_every_report_would_meet_is_blamed_on_none(
    queue: QueueSpec, service: SettleService, database_url: str
) -> None:
    """Nobody could settle, so refusing reports would help nobody, and would have all of these jobs run again."""
    leases = await _leased(queue, 3)

    async with broken_statements(database_url):
        met = await asyncio.gather(
            *(service.settle_attempts(_successes([lease]), PRINCIPAL) for lease in leases), return_exceptions=True
        )
    afterwards = await service.settle_attempts(_successes(leases), PRINCIPAL)

    assert [asyncpg.UndefinedColumnError] * 3 == [type(error) for error in met]
    assert Undecided([], []) == afterwards
