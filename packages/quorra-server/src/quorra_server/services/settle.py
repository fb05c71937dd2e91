"""Settling: workers report how attempts ended, and the jobs move on.

Reports that arrive while a statement runs share the next one (group commit), so that a busy server writes large batches
and an idle one answers at once.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import LeaseId, Report, Settled
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.observability.metrics import Metrics
from quorra_server.services.acknowledged import Acknowledged
from quorra_server.services.runners import Runners
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import durability, leases
from quorra_server.storage.database import Pool
from quorra_server.storage.leases import EndedMembers, Member

REPORTS_MAX = 2_000
# Small statements at the same time share a flush. Beside a large one the next group had better grow: a statement of 900
# takes a twentieth less for each report than two of 400.
STATEMENTS_AT_ONCE = 2
REPORTS_AT_ONCE = 200


class _Waiting:
    """Reports of one caller, and the future that answers it."""

    __slots__ = ("answer", "members", "principal", "reports")

    def __init__(self, principal: str, reports: Sequence[Report]) -> None:
        self.principal = principal
        self.reports = reports
        self.members = {report.lease[:2] for report in reports}
        self.answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()


class _Answer(NamedTuple):
    """What became of a caller's reports, as far as it is worth a word."""

    ended: Sequence[EndedMembers]
    refused: dict[Member, Settled]


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

    async def settle_attempts(self, reports: Sequence[Report], principal: str) -> list[Settled]:
        """Record how attempts ended and return the reports that were refused, in the order given.

        A report that lost its lease changes nothing. Sending the same reports again is safe.

        Args:
            reports: Each lease at most once.
            principal: Who reports; only the principal that leased a job may settle it.

        Raises:
            StorageUnavailable: Not known whether anything was recorded; send the same reports again.
        """
        refused = (await self._settle(reports, principal)).refused
        return [refused[report.lease[:2]] for report in reports if report.lease[:2] in refused] if refused else []

    async def settle_attempt(self, report: Report, principal: str) -> Settled:
        """Record how one attempt ended and say what became of the report.

        Raises:
            StorageUnavailable: Not known whether anything was recorded; send the same report again.
        """
        answer = await self._settle([report], principal)
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
        try:
            answer = await self._settle_group(group)
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

    async def _settle_group(self, group: Sequence[_Waiting]) -> _Answer:
        reports = list(chain.from_iterable(waiting.reports for waiting in group))
        self._metrics.settle_batch.observe(len(reports))
        self._under_way += len(reports)
        try:
            ended = await leases.settle_attempts(self._pool, group[0].principal, reports)
        finally:
            self._under_way -= len(reports)
        refused: dict[Member, Settled] = {}
        if sum(len(alike.ordinals) for alike in ended) < len(reports):
            refused = await self._refused(reports, ended)
        self._follow_up(reports, ended, refused)
        return _Answer(ended, refused)

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
