"""Settling: workers report how attempts ended, and the jobs move on.

Reports that arrive while a statement runs share the next one (group commit), so that a busy server writes large batches
and an idle one answers at once.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from quorra_server.domain.job import Report, Settled
from quorra_server.domain.states import TERMINAL, JobStatus, OutcomeKind
from quorra_server.observability.metrics import Metrics
from quorra_server.services.wakeups import Wakeups
from quorra_server.storage import leases
from quorra_server.storage.database import Pool
from quorra_server.storage.leases import Member

REPORTS_MAX = 2_000
# While one statement waits for its commit, the next one already runs.
STATEMENTS_AT_ONCE = 2


class _Waiting:
    """Reports of one caller, and the future that answers it."""

    __slots__ = ("answer", "principal", "reports")

    def __init__(self, principal: str, reports: Sequence[Report]) -> None:
        self.principal = principal
        self.reports = reports
        self.answer: asyncio.Future[list[Settled]] = asyncio.get_running_loop().create_future()


class SettleService:
    """Settles reports in groups, and tells the rest of the server what follows from them."""

    def __init__(self, pool: Pool, wakeups: Wakeups, metrics: Metrics) -> None:
        """Take the pool that nothing else can starve."""
        self._pool = pool
        self._wakeups = wakeups
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._runners: set[asyncio.Task[None]] = set()

    async def settle_attempts(self, reports: Sequence[Report], principal: str) -> list[Settled]:
        """Record how attempts ended and say what became of each report, in the order given.

        A report that lost its lease changes nothing. Sending the same reports again is safe.

        Args:
            reports: Each lease at most once.
            principal: Who reports; only the principal that leased a job may settle it.

        Raises:
            StorageUnavailable: Not known whether anything was recorded; send the same reports again.
        """
        waiting = _Waiting(principal, reports)
        self._waiting.append(waiting)
        if len(self._runners) < STATEMENTS_AT_ONCE:
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        return await waiting.answer

    async def flush(self) -> None:
        """Wait until everything that was handed in is answered."""
        while self._runners:
            await asyncio.wait(self._runners)

    async def _run(self) -> None:
        while group := self._next_group():
            try:
                answers = await self._settle_group(group)
            except Exception as error:
                # Whatever went wrong belongs to the callers; this task serves others too.
                for waiting in group:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            for waiting, answer in zip(group, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    def _next_group(self) -> list[_Waiting]:
        """Take what waits: one principal, each lease once, up to `REPORTS_MAX` reports (or one large caller)."""
        group: list[_Waiting] = []
        left: list[_Waiting] = []
        seen: set[Member] = set()
        for waiting in self._waiting:
            keys = {report.lease[:2] for report in waiting.reports}
            fits = not group or (
                waiting.principal == group[0].principal
                and len(seen) + len(keys) <= REPORTS_MAX
                and seen.isdisjoint(keys)
            )
            if fits:
                group.append(waiting)
                seen |= keys
            else:
                left.append(waiting)
        self._waiting = left
        return group

    async def _settle_group(self, group: Sequence[_Waiting]) -> list[list[Settled]]:
        reports = [report for waiting in group for report in waiting.reports]
        self._metrics.settle_batch.observe(len(reports))
        accepted = await leases.settle_attempts(self._pool, group[0].principal, reports)
        stands = await self._find_outcomes(reports, accepted) if len(accepted) < len(reports) else {}
        self._follow_up(reports, accepted, stands)
        return [[_answer(report, accepted, stands) for report in waiting.reports] for waiting in group]

    async def _find_outcomes(
        self, reports: Sequence[Report], accepted: dict[Member, Settled]
    ) -> dict[Member, OutcomeKind]:
        refused = [report.lease for report in reports if report.lease[:2] not in accepted]
        return await leases.find_outcomes(self._pool, refused)

    def _follow_up(
        self,
        reports: Sequence[Report],
        accepted: dict[Member, Settled],
        stands: dict[Member, OutcomeKind],
    ) -> None:
        """Count, wake up whoever can lease what is ready again, and answer whoever waits for an end."""
        ended: list[UUID] = []
        processed: dict[str, int] = {}
        for report in reports:
            settled = accepted.get(report.lease[:2])
            if settled is None:
                self._count_refusal(report, stands)
                continue
            queue = settled.queue or ""
            if report.kind in (OutcomeKind.SUCCEEDED, OutcomeKind.FAILED):
                processed[queue] = processed.get(queue, 0) + 1
            if report.kind is OutcomeKind.FAILED:
                self._metrics.jobs_failed.labels(self._metrics.queue(queue)).inc()
            if settled.status is JobStatus.DEAD:
                self._metrics.jobs_dead.labels(self._metrics.queue(queue)).inc()
            if settled.status in TERMINAL:
                ended.append(report.lease.job_id)
            if settled.run_at is not None:
                self._wakeups.work_due(queue, settled.run_at.timestamp())
        self._metrics.run_seconds.observe_many(
            [report.run_ms / 1000 for report in reports if report.run_ms is not None]
        )
        for queue, count in processed.items():
            self._metrics.jobs_processed.labels(self._metrics.queue(queue)).inc(count)
        if ended:
            self._wakeups.jobs_ended(ended)

    def _count_refusal(self, report: Report, stands: dict[Member, OutcomeKind]) -> None:
        if not _is_own_repeat(report, stands.get(report.lease[:2])):
            self._metrics.stale_acks.inc()


def _is_own_repeat(report: Report, stands: OutcomeKind | None) -> bool:
    """Say whether a refused report only repeats what its lease had reported before."""
    return stands is not None and stands is report.kind


def _answer(report: Report, accepted: dict[Member, Settled], stands: dict[Member, OutcomeKind]) -> Settled:
    key = report.lease[:2]
    return accepted.get(key) or Settled(lease=report.lease, kind=report.kind, accepted=False, stands=stands.get(key))


def lease_was_lost(settled: Settled) -> bool:
    """Say whether a refused report came too late: somebody else ended the lease, or it never was."""
    if settled.accepted:
        return False
    if settled.stands is OutcomeKind.EXPIRED or settled.stands is None:
        return True
    return settled.stands is OutcomeKind.CANCELLED and settled.kind is not OutcomeKind.CANCELLED
