"""Dispatch: decides which worker stream leases from which queue, and when. The heart of the fast path.

A lane is a queue as seen by workers that know the same types. Wake-ups make lanes hot: they may have work. A hot lane
leases for its streams with free credit, one after another, until a lease comes back short; then it is cold until the
next wake-up. Nothing here is the truth: a lane that is wrongly hot costs one empty lease, one that is wrongly cold
costs a poll interval.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import structlog

from quorra_server.domain.errors import QuorraError
from quorra_server.domain.job import LeaseBatch, LeasedJob, NewJob
from quorra_server.observability.logging import log_trouble
from quorra_server.observability.metrics import Metrics
from quorra_server.services.ending import end_tasks
from quorra_server.services.untakable import Untakable
from quorra_server.services.wakeups import Hint, Wakeups
from quorra_server.storage import history, leases, queues
from quorra_server.storage.database import Pool
from quorra_server.storage.leases import HEAD, Cursor

log = structlog.get_logger(__name__)

BATCH_MAX = 1_000
# Small leases at the same time share a flush. A large one needs none beside it: that would only walk over the rows that
# it has locked.
LEASES_AT_ONCE_PER_LANE = 4
JOBS_AT_ONCE_PER_LANE = 200
# A drain leaves dead rows at the head of the queue until the next vacuum, so full leases go on where the last one
# ended; what comes before that place (a higher priority, a submit that commits late) waits so long at most.
FULL_CURSOR_SECONDS_MAX = 0.2
# A lease that is slow without being full walks over dead rows that a long transaction elsewhere keeps. Then the cursor
# stays longer, and a little behind the last job, because submits commit out of order.
SLOW_LEASE_SECONDS = 0.005
SLOW_CURSOR_SECONDS_MAX = 1.0
SLOW_CURSOR_OVERLAP = timedelta(seconds=1)
# A few new jobs are handed over while a worker keeps up. One that has so many small batches, all of them younger than
# that, is busy: then jobs had better wait for each other in line, and be leased in larger batches.
SMALL_HANDOVERS_MAX = 8
SMALL_HANDOVER_SECONDS = 0.05
SMALL_HANDOVER_JOBS = 50
TROUBLE_PAUSE_SECONDS = 0.5


class Subscription(NamedTuple):
    """A queue that a stream takes jobs from.

    Attributes:
        slots: Bounds the jobs of this queue that the stream holds; 0 means no bound.
        weight: Its share while several queues have work; 0 for all of them means the order given, strictly.
    """

    queue: str
    slots: int = 0
    weight: int = 0


class Stream:
    """One worker's stream, as the dispatcher sees it: its lanes in the order of preference, and its credit."""

    def __init__(
        self,
        *,
        worker: str,
        principal: str,
        lease_ms: int,
        subscriptions: Sequence[Subscription],
        types: Iterable[str],
        deliver: Callable[[LeaseBatch], None],
        end_leases: Callable[[Sequence[str], str], None],
    ) -> None:
        """Take who it is, and how to reach it; `deliver` and `end_leases` must not block."""
        self.worker = worker
        self.principal = principal
        self.lease_ms = lease_ms
        # Running totals of the bounded queues, as those of all jobs below: allowed, and sent or being leased.
        self.granted_by_queue = {
            subscription.queue: subscription.slots for subscription in subscriptions if subscription.slots
        }
        self.spent_by_queue = dict.fromkeys(self.granted_by_queue, 0)
        # Whether the worker says what it allows of them; else each job that ends allows another one.
        self.grants_by_queue = False
        is_weighted = any(subscription.weight for subscription in subscriptions)
        # Jobs taken from each queue, divided by its weight: who has least is next. Empty for a strict stream.
        self.shares = {subscription.queue: 0.0 for subscription in subscriptions} if is_weighted else {}
        self.weights = {subscription.queue: max(subscription.weight, 1) for subscription in subscriptions}
        self.types = frozenset(types) or None
        self.deliver = deliver
        self.end_leases = end_leases
        self.lanes: list[Lane] = []
        self.granted_total = 0
        self.sent_total = 0
        self.reserved = 0
        # Small batches that were handed over, with the moment, oldest first; those that are over or old are dropped.
        self.small_handovers: dict[int, float] = {}
        self.is_open = True

    @property
    def free(self) -> int:
        """How many more jobs it may be sent now."""
        return self.granted_total - self.sent_total - self.reserved

    def take_credit(self, granted_total: int, by_queue: Mapping[str, int]) -> None:
        """Take what the worker allows: running totals of all jobs, and of those of bounded queues."""
        self.granted_total = max(self.granted_total, granted_total)
        for queue in self.granted_by_queue.keys() & by_queue.keys():
            self.granted_by_queue[queue] = by_queue[queue]
            self.grants_by_queue = True

    def ended(self, queue: str, count: int) -> bool:
        """Allow others of a bounded queue for jobs that ended, unless the worker does so itself; say whether it did."""
        if self.grants_by_queue or queue not in self.granted_by_queue:
            return False
        self.granted_by_queue[queue] += count
        return True

    def reserve(self, queue: str, count: int) -> None:
        """Keep room for jobs that are being leased for it."""
        self.reserved += count
        self._spend(queue, count)

    def unreserve(self, queue: str, count: int, delivered: int) -> None:
        """Give back the room that was kept, but for what was delivered."""
        self.reserved -= count
        self._spend(queue, delivered - count)

    def takes_new(self, queue: str, count: int, now: float) -> bool:
        """Say whether new jobs may be handed over to it: it has room for all of them and, if they are few, keeps up."""
        return self.room_in(queue) >= count and (count >= SMALL_HANDOVER_JOBS or self.keeps_up(now))

    def keeps_up(self, now: float) -> bool:
        """Say whether it has ended most of the small batches that it was handed over lately."""
        while self.small_handovers and next(iter(self.small_handovers.values())) < now - SMALL_HANDOVER_SECONDS:
            del self.small_handovers[next(iter(self.small_handovers))]
        return len(self.small_handovers) < SMALL_HANDOVERS_MAX

    def room_in(self, queue: str) -> int:
        """How many more jobs of a queue it may be sent now."""
        granted = self.granted_by_queue.get(queue)
        return self.free if granted is None else min(self.free, granted - self.spent_by_queue[queue])

    def _spend(self, queue: str, count: int) -> None:
        if queue in self.spent_by_queue:
            self.spent_by_queue[queue] += count


class Lane:
    """A queue for workers that know the same types (None: every type)."""

    def __init__(self, queue: str, types: frozenset[str] | None) -> None:
        """Start hot: nothing is known of the queue yet."""
        self.queue = queue
        self.types = types
        self.type_list = sorted(types) if types else None
        self.is_hot = True
        self.is_plenty = False
        self.leasing = 0
        self.leasing_jobs = 0
        self.heat = 0
        self.streams: set[Stream] = set()
        # Streams that may have credit, longest served first.
        self.ready: OrderedDict[Stream, None] = OrderedDict()
        self.cursor: Cursor = HEAD
        # Whether the cursor is there because leases were slow, not because they were full.
        self.is_slow = False
        self.looked_at_head = 0.0


class Seat(NamedTuple):
    """Room for some new jobs at a stream that waits for their queue: reserved until it is left."""

    lane: Lane
    stream: Stream
    size: int
    is_left: asyncio.Future[None]


class Dispatcher:
    """Leases for all streams of a server."""

    def __init__(self, pool: Pool, wakeups: Wakeups, metrics: Metrics, *, poll_seconds: float) -> None:
        """Listen to wake-ups; `poll_seconds` bounds how long lost ones can delay a job."""
        self._pool = pool
        self._metrics = metrics
        self._untakable = Untakable(pool, metrics)
        self._poll_seconds = poll_seconds
        self._lanes: dict[tuple[str, frozenset[str] | None], Lane] = {}
        self._by_queue: dict[str, list[Lane]] = {}
        self._streams: set[Stream] = set()
        self._leases: set[asyncio.Task[None]] = set()
        self._seats: set[asyncio.Future[None]] = set()
        self._poller: asyncio.Task[None] | None = None
        self._is_draining = False
        self._wakeups = wakeups
        wakeups.listen(self._hear)

    def start(self) -> None:
        """Begin to poll."""
        self._poller = asyncio.create_task(self._poll())

    async def drain(self) -> None:
        """Lease nothing more, and wait for the leases under way to be delivered."""
        self._is_draining = True
        while under_way := [*self._leases, *self._seats]:
            await asyncio.wait(under_way)

    async def stop(self) -> None:
        """Drain and stop polling."""
        if self._poller is not None:
            await end_tasks([self._poller])
        await self.drain()

    def open_stream(self, stream: Stream, subscriptions: Sequence[Subscription]) -> None:
        """Add a stream; it is sent nothing before it grants credit."""
        for subscription in subscriptions:
            lane = self._lane(subscription.queue, stream.types)
            lane.streams.add(stream)
            stream.lanes.append(lane)
        self._streams.add(stream)
        self._metrics.streams.set(len(self._streams))

    def close_stream(self, stream: Stream) -> None:
        """Remove a stream; its leases live on until they end or run out. Closing twice is fine."""
        if not stream.is_open:
            return
        stream.is_open = False
        self._streams.discard(stream)
        for lane in stream.lanes:
            lane.streams.discard(stream)
            lane.ready.pop(stream, None)
            if not lane.streams:
                self._forget_lane(lane)
        self._metrics.streams.set(len(self._streams))

    def grant(self, stream: Stream, granted_total: int, by_queue: Mapping[str, int]) -> None:
        """Take a stream's credit: the running totals of all jobs that it ever allowed, in all and of bounded queues."""
        stream.take_credit(granted_total, by_queue)
        self._offer(stream)

    def settled(self, stream: Stream, queue: str, count: int) -> None:
        """Note that a stream holds fewer jobs of a queue."""
        if stream.ended(queue, count):
            self._offer(stream)

    def take_seat(self, jobs: Sequence[NewJob]) -> Seat | None:
        """Reserve room for new jobs at a stream that waits for them: then the commit that records them can lease them.

        None if nobody has room for all of them and keeps up, if their queue may hold others, or if they are not of one
        line: of one queue, and due at once.
        """
        lanes = self._by_queue.get(jobs[0].queue)
        if not lanes or self._is_draining or len(jobs) > BATCH_MAX or not _are_of_one_line(jobs):
            return None
        types = {job.type for job in jobs}
        for lane in lanes:
            if not lane.is_hot and (lane.types is None or types <= lane.types):
                stream = self._next_stream(lane)
                if stream is not None and stream.takes_new(lane.queue, len(jobs), time.monotonic()):
                    stream.reserve(lane.queue, len(jobs))
                    seat = Seat(lane, stream, len(jobs), asyncio.get_running_loop().create_future())
                    self._seats.add(seat.is_left)
                    return seat
        return None

    def leave_seat(self, seat: Seat, batch: LeaseBatch | None) -> None:
        """Give to the stream of a seat what was leased for it, if anything was, and the room back that was kept."""
        lane, stream, size, is_left = seat
        delivered = 0
        try:
            if batch is not None:
                self._hand_over(lane, stream, batch)
                delivered = size
        finally:
            stream.unreserve(lane.queue, size, delivered)
            self._seats.discard(is_left)
            is_left.set_result(None)
        self._offer(stream)

    def _hand_over(self, lane: Lane, stream: Stream, batch: LeaseBatch) -> None:
        count = len(batch.jobs)
        self._metrics.jobs_handed_over.labels(self._metrics.queue(lane.queue)).inc(count)
        if count < SMALL_HANDOVER_JOBS:
            stream.small_handovers[batch.batch] = time.monotonic()
        self._deliver(lane, stream, batch)

    def _offer(self, stream: Stream) -> None:
        """Make a stream available to its lanes."""
        if stream.free <= 0 or not stream.is_open:
            return
        for lane in stream.lanes:
            lane.ready.setdefault(stream)
        self._feed(stream)

    def _feed(self, stream: Stream) -> None:
        """Lease for a stream from its hot lanes, as far as it prefers no other: of thousands few are looked at."""
        for lane in stream.lanes:
            if stream.free <= 0:
                return
            if lane.is_hot and stream.room_in(lane.queue) > 0:
                self._pump(lane)
                if not stream.shares and stream.room_in(lane.queue) > 0:
                    return

    def _hear(self, hint: Hint) -> None:
        for queue in hint.queues:
            for lane in self._by_queue.get(queue, ()):
                self._heat(lane)
        if hint.ended_leases:
            for stream in self._streams:
                stream.end_leases(hint.ended_leases, hint.reason)

    def _heat(self, lane: Lane) -> None:
        lane.is_hot = True
        lane.heat += 1
        self._pump(lane)

    def _cool(self, lane: Lane) -> None:
        lane.is_hot = False
        lane.is_plenty = False
        # Streams prefer their first queues; now that this one is empty, they may turn to the next.
        for stream in list(lane.streams):
            self._feed(stream)

    def _pump(self, lane: Lane) -> None:
        """Start leases for a hot lane, as far as streams have credit."""
        while lane.is_hot and not self._is_draining:
            if lane.leasing and not _may_lease_more(lane):
                return
            stream = self._next_stream(lane)
            if stream is None:
                return
            limit = min(stream.room_in(lane.queue), BATCH_MAX)
            stream.reserve(lane.queue, limit)
            lane.leasing += 1
            lane.leasing_jobs += limit
            task = asyncio.create_task(self._lease(lane, stream, limit))
            self._leases.add(task)
            task.add_done_callback(self._leases.discard)

    def _next_stream(self, lane: Lane) -> Stream | None:
        """Return the stream that waited longest, has room, and has no queue with work that it prefers."""
        for stream in list(lane.ready):
            if stream.free <= 0:
                del lane.ready[stream]
            elif stream.room_in(lane.queue) > 0 and not self._prefers_another(stream, lane):
                lane.ready.move_to_end(stream)
                return stream
        return None

    def _prefers_another(self, stream: Stream, lane: Lane) -> bool:
        if stream.shares:
            return any(
                stream.shares[other.queue] < stream.shares[lane.queue]
                for other in stream.lanes
                if other.is_hot and stream.room_in(other.queue) > 0
            )
        for better in stream.lanes:
            if better is lane:
                return False
            if better.is_hot and stream.room_in(better.queue) > 0:
                return True
        return False

    async def _lease(self, lane: Lane, stream: Stream, limit: int) -> None:
        heat = lane.heat
        delivered = 0
        try:
            batch = await self._lease_batch(lane, stream, limit)
            if lane.is_plenty:
                # PostgreSQL looks for the next jobs while these are written.
                self._pump(lane)
                await asyncio.sleep(0)
            if batch is not None:
                self._deliver(lane, stream, batch)
                delivered = len(batch.jobs)
        finally:
            stream.unreserve(lane.queue, limit, delivered)
        if delivered < limit and lane.heat == heat and lane.leasing == 0:
            self._cool(lane)
        # Also after an empty lease: while it ran, the stream had no credit left and may have been passed over.
        self._offer(stream)
        self._pump(lane)

    async def _lease_batch(self, lane: Lane, stream: Stream, limit: int) -> LeaseBatch | None:
        begin = self._begin(lane)
        take = partial(
            leases.lease_jobs,
            worker=stream.worker,
            principal=stream.principal,
            lease_ms=stream.lease_ms,
            secret=uuid4(),
        )
        started = time.monotonic()
        try:
            batch = await self._untakable.lease_jobs(take, lane.queue, lane.type_list, limit, begin)
            seconds = time.monotonic() - started
            if batch is not None:
                await self._add_checkpoints(batch, stream)
        except Exception as error:
            # Whatever it was: the lane is tried again.
            log_trouble(log, "lease_failed", error, queue=lane.queue)
            await asyncio.sleep(TROUBLE_PAUSE_SECONDS)
            lane.is_plenty = False
            # There begins a search for what a lease cannot take: the next bug ought to be one that it can find.
            lane.cursor = HEAD
            return None
        finally:
            lane.leasing -= 1
            lane.leasing_jobs -= limit
        lane.is_plenty = batch is not None and len(batch.jobs) == limit
        self._move_cursor(lane, batch.jobs[-1] if batch else None, begin, seconds)
        return batch

    def _begin(self, lane: Lane) -> Cursor:
        """Return where to look: the cursor, or the head when that was last looked at too long ago."""
        now = time.monotonic()
        if now - lane.looked_at_head > (SLOW_CURSOR_SECONDS_MAX if lane.is_slow else FULL_CURSOR_SECONDS_MAX):
            lane.cursor = HEAD
        if lane.cursor is HEAD:
            lane.looked_at_head = now
        else:
            self._metrics.cursor_leases.labels(self._metrics.queue(lane.queue)).inc()
        return lane.cursor

    def _move_cursor(self, lane: Lane, last: LeasedJob | None, begin: Cursor, seconds: float) -> None:
        """Go on behind a full lease, stay near the end of a slow one, and else look at the head again."""
        if last is not None and lane.is_plenty:
            lane.cursor, lane.is_slow = Cursor.at(last), False
        elif last is not None and (lane.is_slow if begin is not HEAD else seconds > SLOW_LEASE_SECONDS):
            lane.cursor = Cursor.at(last, SLOW_CURSOR_OVERLAP)
            lane.is_slow = True
        else:
            lane.cursor, lane.is_slow = HEAD, False
            if begin is not HEAD:
                # What is left lies before the cursor: the lane is not cold yet.
                lane.heat += 1

    def _deliver(self, lane: Lane, stream: Stream, batch: LeaseBatch) -> None:
        count = len(batch.jobs)
        self._metrics.jobs_leased.labels(self._metrics.queue(lane.queue)).inc(count)
        self._metrics.lease_batch.observe(count)
        leased_at_us = batch.leased_at_us
        self._metrics.wait_seconds.observe_many([(leased_at_us - job.run_at_us) / 1_000_000 for job in batch.jobs])
        stream.sent_total += count
        self._share_out(stream, lane, count)
        stream.deliver(batch)

    def _share_out(self, stream: Stream, lane: Lane, count: int) -> None:
        """Note what a queue got of a weighted stream; one that was empty has no claim to what it missed meanwhile."""
        if stream.shares:
            stream.shares[lane.queue] += count / stream.weights[lane.queue]
            least = min(stream.shares[other.queue] for other in stream.lanes if other.is_hot or other is lane)
            for other in stream.lanes:
                if not other.is_hot:
                    stream.shares[other.queue] = max(stream.shares[other.queue], least)

    async def _add_checkpoints(self, batch: LeaseBatch, stream: Stream) -> None:
        """Fetch what earlier attempts stored; a first delivery has nothing.

        The jobs are leased already, so it is tried again for as long as half their lease is left to run them.
        """
        again = [job.job_id for job in batch.jobs if job.deliveries > 1]
        last_try_at = time.monotonic() + batch.lease_ms / 2000
        while again:
            try:
                notes = await history.find_notes(self._pool, again)
            except QuorraError as error:
                if self._is_draining or not stream.is_open or time.monotonic() > last_try_at:
                    raise
                log_trouble(log, "checkpoints_not_read", error, jobs=len(again))
                await asyncio.sleep(TROUBLE_PAUSE_SECONDS)
            else:
                batch.checkpoints.update({key: note.checkpoint for key, note in notes.items() if note.checkpoint})
                return

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            cold = [queue for queue, lanes in self._by_queue.items() if any(_is_waiting(lane) for lane in lanes)]
            if not cold:
                continue
            try:
                due = await queues.find_due_queues(self._pool, cold)
            except Exception as error:
                # Lost wake-ups are made good by the next round, whatever became of this one.
                log_trouble(log, "poll_failed", error)
                continue
            self._hear(Hint(queues=due))

    def _lane(self, queue: str, types: frozenset[str] | None) -> Lane:
        lane = self._lanes.get((queue, types))
        if lane is None:
            lane = self._lanes[queue, types] = Lane(queue, types)
            self._by_queue.setdefault(queue, []).append(lane)
        return lane

    def _forget_lane(self, lane: Lane) -> None:
        del self._lanes[lane.queue, lane.types]
        self._by_queue[lane.queue].remove(lane)
        if not self._by_queue[lane.queue]:
            del self._by_queue[lane.queue]


def _are_of_one_line(jobs: Sequence[NewJob]) -> bool:
    queue = jobs[0].queue
    return all(job.queue == queue and not job.delay_ms and job.run_at is None for job in jobs)


def _may_lease_more(lane: Lane) -> bool:
    """Say whether another lease may run beside those under way: only where the last one was full, and all are small."""
    return lane.is_plenty and lane.leasing < LEASES_AT_ONCE_PER_LANE and lane.leasing_jobs < JOBS_AT_ONCE_PER_LANE


def _is_waiting(lane: Lane) -> bool:
    """Say whether a lane is cold while somebody could take its jobs."""
    return not lane.is_hot and any(stream.free > 0 for stream in lane.ready)
