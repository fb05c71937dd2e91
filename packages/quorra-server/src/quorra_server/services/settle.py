"""Settling: workers report how attempts ended, and the jobs move on.

Reports that arrive while a statement runs share the next one (group commit), so that a busy server writes large batches
and an idle one answers at once. A report that meets a bug is taken out of its group, and refused in the end.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import LeaseId, Report, Settled
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.observability.logging import log_incident
from quorra_server.observability.metrics import Metrics
from quorra_server.services.acknowledged import Acknowledged
from quorra_server.services.halves import by_halves
from quorra_server.services.runners import Runners
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import durability, leases
from quorra_server.storage.database import Pool
from quorra_server.storage.leases import EndedMembers, Member

log = structlog.get_logger(__name__)

REPORTS_MAX = 2_000
# Small statements at the same time share a flush. Beside a large one the next group had better grow: a statement of 900
# takes a twentieth less for each report than two of 400.
STATEMENTS_AT_ONCE = 2
REPORTS_AT_ONCE = 200
# A bug may have come of the moment, as when a table was altered just then: a report that met one is tried three times.
BUG_PAUSES_SECONDS = (0.2, 1.0)


class Incident(NamedTuple):
    """A report that met a bug each time it was tried, and the id under which the log has the bug."""

    report: Report
    incident: str


class Undecided(NamedTuple):
    """Reports that did not decide how their attempts ended.

    Attributes:
        refused: Others had ended the lease before, or it never was.
        incidents: A bug keeps the report from being recorded; the lease runs out.
    """

    refused: list[Settled]
    incidents: list[Incident]


class _Waiting:
    """Reports of one caller, and the future that answers it."""

    __slots__ = ("answer", "members", "principal", "reports")

    def __init__(self, principal: str, reports: Sequence[Report]) -> None:
        self.principal = principal
        self.reports = reports
        self.members = {report.lease[:2] for report in reports}
        self.answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()


class _Answer(NamedTuple):
    """What became of the reports of a group, as far as it is worth a word; `bugs` are those that some met alone."""

    ended: list[EndedMembers]
    refused: dict[Member, Settled]
    bugs: dict[Member, Exception]


class SettleService:
    """Settles reports in groups, and tells the rest of the server what follows from them."""

    def __init__(self, pool: Pool, wakeups: Wakeups, metrics: Metrics, acknowledged: Acknowledged) -> None:
        """Take the pool that nothing else can starve."""
        self._pool = pool
        self._wakeups = wakeups
        self._metrics = metrics
        self._acknowledged = acknowledged
        self._waiting: list[_Waiting] = []
        self._runners = Runners()
        self._under_way = 0

    async def settle_attempts(self, reports: Sequence[Report], principal: str) -> Undecided:
        """Record how attempts ended and return the reports that did not decide, each kind in the order given.

        A report that lost its lease changes nothing. Sending the same reports again is safe.

        Args:
            reports: Each lease at most once.
            principal: Who reports; only the principal that leased a job may settle it.

        Raises:
            StorageUnavailable: Not known whether anything was recorded; send the same reports again.
            Exception: A bug that any report would meet; none of them is to blame, so send them again.
        """
        answer = await self._settle(reports, principal)
        if answer.bugs:
            return await self._try_again(reports, principal, answer)
        return Undecided(_in_order(reports, answer.refused) if answer.refused else [], [])

    async def settle_attempt(self, report: Report, principal: str) -> Settled:
        """Record how one attempt ended and say what became of the report.

        Raises:
            StorageUnavailable: Not known whether anything was recorded; send the same report again.
            Exception: A bug; nothing was recorded.
        """
        answer = await self._settle([report], principal)
        if report.lease[:2] in answer.bugs:
            raise answer.bugs[report.lease[:2]]
        return answer.refused.get(report.lease[:2]) or _accepted(report, answer.ended)

    async def release_unsent(self, leases: Sequence[LeaseId], principal: str, reason: str) -> None:
        """Give back what was leased for a worker and never sent to it; if that fails, it comes back with its lease."""
        reports = [Report(lease, OutcomeKind.RELEASED, error=reason) for lease in leases]
        with contextlib.suppress(QuorraError):
            await self.settle_attempts(reports, principal)

    async def flush(self) -> None:
        """Wait until everything that was handed in is answered."""
        await self._runners.all_ended()

    async def _settle(self, reports: Sequence[Report], principal: str) -> _Answer:
        waiting = _Waiting(principal, reports)
        self._waiting.append(waiting)
        if not self._runners or (len(self._runners) < STATEMENTS_AT_ONCE and self._under_way < REPORTS_AT_ONCE):
            self._runners.start(self._run)
        return await waiting.answer

    async def _run(self) -> None:
        while group := self._next_group():
            await self._answer(group)

    async def _answer(self, group: Sequence[_Waiting]) -> None:
        reports = list(chain.from_iterable(waiting.reports for waiting in group))
        try:
            answer = await self._settle_reports(group[0].principal, reports)
        except Exception as error:
            # Whatever went wrong belongs to the callers; the runner serves others too.
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting in group:
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def _next_group(self) -> list[_Waiting]:
        """Take what waits: one principal, each lease once, up to `REPORTS_MAX` reports (or one large caller)."""
        group: list[_Waiting] = []
        left: list[_Waiting] = []
        seen: set[Member] = set()
        for waiting in self._waiting:
            fits = not group or (
                waiting.principal == group[0].principal
                and len(seen) + len(waiting.members) <= REPORTS_MAX
                and seen.isdisjoint(waiting.members)
            )
            if fits:
                group.append(waiting)
                seen |= waiting.members
            else:
                left.append(waiting)
        self._waiting = left
        return group

    async def _settle_reports(self, principal: str, reports: Sequence[Report]) -> _Answer:
        """Settle reports: all of them together, or after a bug in parts, so that only those that meet it are left."""
        try:
            return await self._settle_together(principal, reports)
        except QuorraError:
            raise
        except Exception as bug:
            # A bug that is met without any of them is the statement's own: no report is to blame, and all of them wait.
            await leases.try_settling(self._pool)
            return await self._settle_apart(principal, reports, bug)

    async def _settle_apart(self, principal: str, reports: Sequence[Report], bug: Exception) -> _Answer:
        answer = _Answer([], {}, {})

        def blame(report: Report, bug: Exception) -> None:
            answer.bugs[report.lease[:2]] = bug

        async for part in by_halves(partial(self._settle_together, principal), reports, bug, blame):
            answer.ended.extend(part.ended)
            answer.refused.update(part.refused)
        return answer

    async def _settle_together(self, principal: str, reports: Sequence[Report]) -> _Answer:
        self._metrics.settle_batch.observe(len(reports))
        self._under_way += len(reports)
        try:
            ended = await leases.settle_attempts(self._pool, principal, reports)
        finally:
            self._under_way -= len(reports)
        refused: dict[Member, Settled] = {}
        if sum(len(alike.ordinals) for alike in ended) < len(reports):
            refused = await self._refused(reports, ended)
        self._follow_up(reports, ended, refused)
        return _Answer(ended, refused, {})

    async def _try_again(self, reports: Sequence[Report], principal: str, answer: _Answer) -> Undecided:
        """Try a caller's reports that met a bug again, apart from everybody else's."""
        refused, bugs = dict(answer.refused), answer.bugs
        left = [report for report in reports if report.lease[:2] in bugs]
        for pause in BUG_PAUSES_SECONDS:
            if not left:
                break
            log.warning("reports_met_bug", count=len(left), error=type(bugs[left[0].lease[:2]]).__name__)
            await asyncio.sleep(pause)
            _, refused_now, bugs = await self._settle_reports(principal, left)
            refused.update(refused_now)
            left = [report for report in left if report.lease[:2] in bugs]
        return Undecided(
            _in_order(reports, refused), [self._incident(report, bugs[report.lease[:2]]) for report in left]
        )

    def _incident(self, report: Report, bug: Exception) -> Incident:
        job_id, batch = str(report.lease.job_id), report.lease.batch
        incident = log_incident(log, "report_refused", bug, job=job_id, batch=batch, kind=report.kind)
        self._metrics.incidents.labels("report").inc()
        return Incident(report, incident)

    async def _refused(self, reports: Sequence[Report], ended: Sequence[EndedMembers]) -> dict[Member, Settled]:
        """Find out how the leases of reports that did not decide had ended before."""
        accepted = {(alike.batch, ordinal) for alike in ended for ordinal in alike.ordinals}
        left = [report for report in reports if report.lease[:2] not in accepted]
        stands = await leases.find_outcomes(self._pool, [report.lease for report in left])
        if stands:
            # Whoever repeats a report takes this for its receipt.
            await durability.confirm_reads(self._pool)
        return {
            report.lease[:2]: Settled(report.lease, report.kind, accepted=False, stands=stands.get(report.lease[:2]))
            for report in left
        }

    def _follow_up(
        self, reports: Sequence[Report], ended: Sequence[EndedMembers], refused: dict[Member, Settled]
    ) -> None:
        """Count, wake up whoever can lease what is ready again, and answer whoever waits for an end."""
        self._acknowledged.outcomes(
            [
                (report.lease.job_hex, report.lease.batch)
                for report in reports
                if not refused or report.lease[:2] not in refused
            ]
        )
        for alike in ended:
            self._count(alike)
            if alike.retry_at is not None:
                self._wakeups.work_due(alike.queue, alike.retry_at.timestamp())
        self._metrics.stale_acks.inc(sum(not settled.is_repeat for settled in refused.values()))
        self._metrics.run_seconds.observe_many(
            [report.run_ms / 1000 for report in reports if report.run_ms is not None]
        )
        are_over = {alike.batch for alike in ended if alike.status is not None}
        self._wakeups.jobs_ended(report.lease.job_id for report in reports if report.lease.batch in are_over)

    def _count(self, alike: EndedMembers) -> None:
        """Count runs that ended, and among them failures; a release or a snooze is no end of a run."""
        queue, count = self._metrics.queue(alike.queue), len(alike.ordinals)
        if alike.kind in (OutcomeKind.SUCCEEDED, OutcomeKind.FAILED):
            self._metrics.jobs_processed.labels(queue).inc(count)
        if alike.kind is OutcomeKind.FAILED:
            self._metrics.jobs_failed.labels(queue).inc(count)
        if alike.status is JobStatus.DEAD:
            self._metrics.jobs_dead.labels(queue).inc(count)


def _in_order(reports: Sequence[Report], refused: dict[Member, Settled]) -> list[Settled]:
    return [refused[report.lease[:2]] for report in reports if report.lease[:2] in refused]


def _accepted(report: Report, ended: Sequence[EndedMembers]) -> Settled:
    batch, ordinal = report.lease[:2]
    alike = next(alike for alike in ended if alike.batch == batch and ordinal in alike.ordinals)
    waits_as = JobStatus.FAILED if report.kind is OutcomeKind.FAILED else JobStatus.PENDING
    return Settled(report.lease, report.kind, True, alike.queue, alike.status or waits_as, alike.retry_at)


def lease_was_lost(settled: Settled) -> bool:
    """Say whether a refused report came too late: somebody else ended the lease, or it never was."""
    if settled.accepted:
        return False
    if settled.stands is OutcomeKind.EXPIRED or settled.stands is None:
        return True
    return settled.stands is OutcomeKind.CANCELLED and settled.kind is not OutcomeKind.CANCELLED
