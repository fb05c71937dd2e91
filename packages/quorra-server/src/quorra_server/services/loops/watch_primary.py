"""Watching: whether the primary is still the same one, and what was lost when it is not."""

import asyncio
import time
from datetime import datetime

import structlog

from quorra_server.observability.metrics import Metrics
from quorra_server.services.acknowledged import Acknowledged
from quorra_server.storage import failovers
from quorra_server.storage.database import Executor, Pool
from quorra_server.storage.failovers import Losses
from quorra_server.storage.primary import Life, Primary

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.5
# Answers that were under way when the primary changed have been given by then.
SETTLE_SECONDS = 0.5
IDS_KEPT_MAX = 10_000
IDS_PER_LINE = 100


class WatchPrimary:
    """Asks all hosts who they are. A round by itself: nothing here waits for a commit, which may wait for a standby."""

    def __init__(self, primary: Primary, metrics: Metrics) -> None:
        """Take whom to watch."""
        self._primary = primary
        self._metrics = metrics

    async def run_once(self) -> bool:
        """Look once; whoever has connections to an earlier primary is told."""
        life = await self._primary.look()
        if life is not None:
            self._metrics.timeline.set(life.timeline)
        return False


class ReportFailovers:
    """Says that the primary lives, and what a change of it cost; on every server: each knows what it acknowledged."""

    def __init__(self, primary: Primary, pool: Pool, acknowledged: Acknowledged, metrics: Metrics, node: str) -> None:
        """Take whose changes to report, what to look for, and where to tell."""
        self._primary = primary
        self._pool = pool
        self._acknowledged = acknowledged
        self._metrics = metrics
        self._node = node
        self._life: Life | None = None
        self._changed_to: Life | None = None
        self._changed_at = 0.0
        primary.follow(self._note_change)

    def _note_change(self, life: Life) -> None:
        self._changed_to = life
        self._changed_at = time.monotonic()

    async def run_once(self) -> bool:
        """Write down that the primary lives, and report a change from the one before."""
        life = self._primary.life
        if life is None or not life.timeline:
            return False
        # The change is noted by itself too: it may come before the first round, which knows of no life before.
        is_new = self._life not in (None, life) or self._changed_to == life
        if is_new:
            await asyncio.sleep(SETTLE_SECONDS)
        looked_at = time.monotonic()
        found = await self._pool.run_transaction(lambda transaction: self._note(transaction, life, is_new=is_new))
        if found is not None:
            self._tell(life, *found)
            self._acknowledged.forget(time.monotonic() - looked_at)
        if self._changed_to == life:
            self._changed_to = None
        self._life = life
        return False

    async def _note(
        self, transaction: Executor, life: Life, *, is_new: bool
    ) -> tuple[Losses, datetime | None, datetime | None] | None:
        beat = await failovers.beat_life(transaction, life)
        if not is_new and not (beat.is_first and beat.earlier_beat_at is not None):
            return None
        jobs, outcomes = self._acknowledged.recent()
        losses = await failovers.find_losses(transaction, jobs, outcomes)
        lost_from, lost_until = await failovers.record_failover(
            transaction,
            life,
            self._node,
            losses,
            earlier_beat_at=beat.earlier_beat_at,
            seconds_ago=time.monotonic() - self._changed_at if is_new else 0.0,
            ids_max=IDS_KEPT_MAX,
        )
        return losses, lost_from, lost_until

    def _tell(self, life: Life, losses: Losses, lost_from: datetime | None, lost_until: datetime | None) -> None:
        self._metrics.failovers.inc()
        self._metrics.lost_jobs.inc(len(losses.jobs))
        self._metrics.lost_outcomes.inc(len(losses.outcomes))
        log.warning(
            "failover",
            system_identifier=str(life.system_identifier),
            timeline=life.timeline,
            lost_from=lost_from and lost_from.isoformat(),
            lost_until=lost_until and lost_until.isoformat(),
            lost_jobs=len(losses.jobs),
            lost_outcomes=len(losses.outcomes),
        )
        for event, ids in (("acknowledged_jobs_lost", losses.jobs), ("accepted_outcomes_lost", losses.outcomes)):
            for start in range(0, min(len(ids), IDS_KEPT_MAX), IDS_PER_LINE):
                log.error(event, jobs=[str(job) for job in ids[start : start + IDS_PER_LINE]])
