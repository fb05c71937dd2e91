"""The worker: slots, the run loop, and the drain."""

import asyncio
import contextvars
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Concatenate, Generic, ParamSpec, overload

import grpc
from msgspec import Struct
from quorra_proto.v1 import quorra_pb2 as pb
from typing_extensions import TypeVar

from quorra_worker_sdk import config
from quorra_worker_sdk.channels import open_aio_channel, open_channel
from quorra_worker_sdk.client import AsyncClient, JobHandler
from quorra_worker_sdk.context import DRAINING, RESULT_BYTES_MAX, Context
from quorra_worker_sdk.endings import Ending
from quorra_worker_sdk.errors import BadHandler, QuorraError, from_grpc
from quorra_worker_sdk.executor import Executor, timeout_seconds
from quorra_worker_sdk.handlers import Binding, ExecutorName, Handler, Retry, executor_for
from quorra_worker_sdk.heartbeat import Heartbeat
from quorra_worker_sdk.session import Session

log = logging.getLogger("quorra.worker")

P = ParamSpec("P")
R = TypeVar("R")
# What a lifespan yields; None without one.
Deps = TypeVar("Deps", default=None)
Lifespan = Callable[[], AbstractAsyncContextManager[Deps]]

SDK_NAME = "quorra-worker-sdk-python"
SDK_VERSION = version("quorra-worker-sdk")
# Jobs held beyond the running ones: as many as end in this time, so that the pipe stays full and nothing is hoarded.
PREFETCH_SECONDS = 0.2
PREFETCH_JOBS_MAX = 4_000
RATE_ROUND_SECONDS = 0.1
# A run that is shorter needs no start report: its outcome brings the start along.
START_REPORT_SECONDS = 0.01
# A start that is older and still unreported waits for a loop that a handler blocks: the heartbeat brings it along.
BLOCKED_SECONDS = 0.5
DEADLINE_ROUND_SECONDS = 0.25
# The worker stops a run this share of the lease before it ends on the server.
LEASE_MARGIN = 0.1
UNKNOWN_TYPE_DELAY_MS = 5_000
RECEIPTS_SECONDS_MAX = 5.0
# A run that cannot be stopped past its timeout keeps its lease so much longer, as on the server.
OVERDUE_SECONDS = 5.0
# A signal so soon after the first one is its copy: systemd signals a whole group, and a parent passes its own on.
SAME_SIGNAL_SECONDS = 1.0

# Handlers that never wait must not keep the loop from everything else.
TURN_SECONDS_MAX = 0.005


class _Run(Struct, eq=False):
    """A job that has a slot, and runs as soon as the loop comes to it."""

    job: pb.Job
    lease_id: str
    handler: Handler[..., Any]
    started_at: float | None = None
    task: "asyncio.Task[None] | None" = None
    context: Context[Any] | None = None
    ended_because: str = ""

    def end(self, reason: str, message: str) -> None:
        """Stop it, or keep it from starting: a task that is cancelled before its first step would never take it."""
        self.ended_because = reason
        if self.context is not None:
            self.context.end(reason)
        if self.task is not None and self.started_at is not None:
            self.task.cancel(message)

    def lasted(self, now: float) -> float:
        """Return for how many seconds it has been running; 0 before its start."""
        return now - self.started_at if self.started_at is not None else 0.0

    def is_overdue(self, now: float) -> bool:
        """Say whether the run should have been stopped long ago by its timeout."""
        seconds = timeout_seconds(self.handler.timeout, self.job.timeout_ms)
        if seconds is None:
            return False
        extra = self.context.extra_seconds if self.context is not None else 0.0
        return self.lasted(now) > seconds + extra + OVERDUE_SECONDS

    @property
    def has_succeeded(self) -> bool:
        """Say whether the database holds its success: what the handler does after that is its own affair."""
        return self.context is not None and self.context.recorded is not None


class Worker(Generic[Deps]):
    """Leases jobs from a Quorra server and runs their handlers.

    `address` is `host:port` in clear text, or `https://host:port` through TLS. What is not given is read from the
    environment: `QUORRA_GRPC_ADDR`, `QUORRA_API_KEY` and the `QUORRA_WORKER_*` variables.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        queues: Mapping[str, int] | Sequence[str] | None = None,
        weights: Mapping[str, int] | None = None,
        slots: int | None = None,
        lifespan: Lifespan[Deps] | None = None,
        api_key: str | None = None,
        worker_id: str | None = None,
        lease_ttl: timedelta | None = None,
        grace: timedelta = timedelta(seconds=30),
        prefetch_jobs_max: int = PREFETCH_JOBS_MAX,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Set a worker up; nothing is opened before `run` or `serve`.

        Args:
            address: `host:port` of the server's gRPC port.
            queues: Names in the order of preference; as a mapping, each with its own bound of jobs held at a time.
            weights: Shares of queues while several have work: 3 beside 1 gets three jobs of four, and a queue that is
                not named has 1. Without weights a queue waits until those before it are empty.
            slots: Jobs that run at the same time, at least 1; 5 by default, or the sum of the queues' bounds.
            lifespan: An async context manager; what it yields is `ctx.deps` of every handler.
            lease_ttl: How long the server waits for a sign of life; 30 s by default.
            grace: How long running jobs may go on after the first SIGTERM.
            prefetch_jobs_max: Jobs held beyond the running ones, at most.

        Raises:
            ValueError: A setting cannot be meant; the message says which and why.
        """
        settings = config.load()
        self.address = address or settings.address
        self.api_key = settings.api_key if api_key is None else config.api_key_of(api_key, "api_key")
        self.worker_id = config.unique_id(worker_id) if worker_id else settings.worker_id
        self.queues = _queues(settings.queues if queues is None else queues)
        self.weights = dict(weights or {})
        if unknown := self.weights.keys() - self.queues.keys():
            raise ValueError(f"weights names {', '.join(sorted(unknown))}; name only queues that are in queues.")
        if slots is not None and slots < 1:
            raise ValueError(f"slots={slots}: use 1 or more, or leave it out")
        bounds = sum(self.queues.values())
        self.slots = slots or (bounds if bounds and all(self.queues.values()) else settings.slots)
        self.lease_ttl_seconds = round(lease_ttl.total_seconds()) if lease_ttl else settings.lease_ttl_seconds
        self.grace_seconds = grace.total_seconds()
        self.prefetch_jobs_max = prefetch_jobs_max
        self.client = AsyncClient(self.address, api_key=self.api_key)
        self.handlers: dict[str, Handler[..., Any]] = {}
        self.lifespan: Lifespan[Any] = lifespan or _no_lifespan
        self._labels = dict(labels or {})
        self._boot_id = secrets.token_hex(8)
        self._deps: Any = None
        self._stopping: asyncio.Event | None = None
        self._signalled_at = 0.0
        self._is_hurried = self._is_cut_short = False
        self._draining = False
        self._is_open = False
        self._held: dict[str, float] = {}
        # Jobs that have not started, each with its lease id.
        self._waiting: deque[tuple[pb.Job, str]] = deque()
        self._running: dict[str, _Run] = {}
        self._received = 0
        self._granted = 0
        # The same for each queue with a bound of its own.
        self._bounds: dict[str, int] = {}
        self._received_of: Counter[str] = Counter()
        self._waiting_of: Counter[str] = Counter()
        self._granted_by_queue: dict[str, int] = {}
        self._ended_in_round = 0
        self._prefetch = 0
        self._fill_is_due = False
        # How many runners to start at a time, and until when those of this turn of the loop may take one more job.
        self._runners_next = 1
        self._turn_ends_at = 0.0
        self._idle = asyncio.Event()
        self._unreported_starts: dict[str, _Run] = {}
        self._starts_are_watched = False

    def job(
        self,
        type: str,
        *,
        queue: str | None = None,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
        executor: ExecutorName | None = None,
    ) -> "_Decorator":
        """Return a decorator that makes a function the handler of a type.

        Args:
            type: What jobs name.
            queue: Where `.enqueue()` puts them; the worker's first queue by default.
            timeout: Longest run.
            retry: How failures are treated.
            executor: `async`, `thread` or `process`; chosen by the function by default.

        Raises:
            BadHandler: The function cannot be a handler as it is.
        """
        return _Decorator(self, type, queue or next(iter(self.queues)), timeout, retry or Retry(), executor)

    def add(
        self,
        type: str,
        function: Callable[..., Any],
        *,
        queue: str | None = None,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
        executor: ExecutorName | None = None,
    ) -> "Worker[Deps]":
        """Make a function the handler of a type, without a decorator."""
        binding = Binding(function)
        if type in self.handlers:
            raise BadHandler(f"{type!r} has a handler already: {self.handlers[type].function.__qualname__}.")
        self.handlers[type] = Handler(
            type=type,
            function=function,
            queue=queue or next(iter(self.queues)),
            binding=binding,
            executor=executor_for(function, executor, binding),
            timeout=timeout,
            retry=retry or Retry(),
        )
        return self

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; a second signal hurries."""
        asyncio.run(self._run_with_signals())

    async def _run_with_signals(self) -> None:
        loop = asyncio.get_running_loop()
        serving = asyncio.current_task()
        assert serving is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, serving)
        try:
            await self.serve()
        except asyncio.CancelledError:
            if not self._is_cut_short:
                raise
            log.warning("the lifespan was cut short by a second signal")

    def _signalled(self, serving: "asyncio.Task[Any]") -> None:
        now = time.monotonic()
        if self._stopping is None or not self._stopping.is_set():
            self._signalled_at = now
            self.stop()
        elif now - self._signalled_at > SAME_SIGNAL_SECONDS:
            self._hurry(serving)

    def _hurry(self, serving: "asyncio.Task[Any]") -> None:
        self._is_hurried = True
        self._cancel_running(DRAINING)
        # A lifespan that hangs, while it begins or ends, looks at no flag of ours.
        if not self._is_open:
            self._is_cut_short = True
            serving.cancel()

    def stop(self) -> None:
        """Begin to drain: no new jobs, running ones may end within the grace. Safe to call from the loop only."""
        if self._stopping is not None:
            self._stopping.set()

    async def serve(self) -> None:
        """Work inside somebody's own loop until `stop` or a cancellation; signals are left alone.

        A cancellation drains without a grace: running handlers are cancelled, and their jobs given back.

        Raises:
            BadHandler: The worker has no handler.
            Unauthenticated: The API key is wrong.
            InvalidRequest: The server does not take this worker; the message says why.
        """
        if not self.handlers:
            raise BadHandler("The worker has no handler; add one with @worker.job or worker.add.")
        self._stopping = asyncio.Event()
        self._bounds = {queue: bound for queue, bound in self.queues.items() if bound}
        self._is_hurried = self._draining = self._is_open = False
        executor = Executor(self.slots, lambda: self._deps, self._fill_soon)
        session = Session(lambda: open_aio_channel(self.address), self._metadata(), self._hello, self)
        self._session, self._executor = session, executor
        heartbeat = Heartbeat(
            lambda: open_channel(self.address),
            self._metadata(),
            self._to_renew,
            self._heartbeat_request,
            self._renewed_in_thread,
            self._heartbeat_failed_in_thread,
        )
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._heartbeat = heartbeat
        async with self.lifespan() as self._deps:
            self._is_open = True
            conversation = asyncio.create_task(session.run())
            rounds = [asyncio.create_task(self._watch_deadlines()), asyncio.create_task(self._measure())]
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait([conversation, stopping], return_when=asyncio.FIRST_COMPLETED)
                if conversation.done():
                    conversation.result()
                await self._drain()
                await session.close(RECEIPTS_SECONDS_MAX)
            except asyncio.CancelledError:
                self._is_hurried = True
                await self._drain()
                await session.close(RECEIPTS_SECONDS_MAX)
                raise
            finally:
                await self._stop_running()
                heartbeat.stop()
                for task in (conversation, stopping, *rounds):
                    task.cancel()
                await asyncio.gather(conversation, stopping, *rounds, return_exceptions=True)
                executor.close()
                await self.client.close()
                self._is_open = False

    # What the session says.

    def connected(self, welcome: pb.Welcome) -> None:
        """Take the server's terms and grant credit for the new stream."""
        for adjustment in welcome.adjusted:
            log.warning("the server changed a wish: %s", adjustment)
        self.lease_ttl_seconds = welcome.lease_ttl_seconds
        self._executor.result_bytes_max = welcome.result_bytes_max or RESULT_BYTES_MAX
        self._heartbeat.start(welcome.heartbeat_interval_ms / 1000, rests_when_idle=welcome.sees_idle_workers)
        self._received = self._granted = 0
        self._received_of.clear()
        self._granted_by_queue = {}
        if self._draining:
            self._session.goodbye("the worker drains")
        self._grant()
        log.info("connected to %s (%s)", welcome.server_id, welcome.server_version)

    def jobs_arrived(self, jobs: Sequence[pb.Job]) -> None:
        """Run jobs, or keep them until a slot is free; a worker that drains gives them back."""
        self._received += len(jobs)
        if self._bounds:
            self._received_of.update(job.queue for job in jobs)
        if self._draining:
            for job in jobs:
                self._give_back(job.lease_id, "the worker drains")
            return
        if self._bounds:
            self._waiting_of.update(job.queue for job in jobs)
        now = time.monotonic()
        for job in jobs:
            lease_id = job.lease_id
            # Counted from when they arrived; the first heartbeat makes it exact.
            self._held[lease_id] = now + job.lease_expires_in_ms / 1000 * (1 - LEASE_MARGIN)
            self._waiting.append((job, lease_id))
        self._fill()

    def leases_ended(self, ended: Iterable[pb.LeaseEnded]) -> None:
        """Stop runs that are over on the server."""
        for lease in ended:
            self._end(lease.lease_id, lease.reason)

    def reports_refused(self, refused: Sequence[pb.Refused]) -> None:
        """Note reports that came too late, and fail runs whose result the server does not take."""
        for entry in refused:
            if entry.reason == pb.REFUSAL_REASON_ALREADY_SETTLED_SAME:
                continue
            reason = pb.RefusalReason.Name(entry.reason)
            log.warning(
                "a report for lease %s was refused: %s (%s)", entry.lease_id, reason, entry.outcome or "no outcome"
            )
            # Of a success only: a failure that is refused, for its lease id, would be refused for ever.
            if entry.reason == pb.REFUSAL_REASON_INVALID and self._session.awaits_success(entry.lease_id):
                self._session.report(
                    pb.Failed(
                        lease_id=entry.lease_id,
                        error=f"the server did not take the outcome: {entry.outcome}",
                        kind="ResultRefused",
                        non_retryable=True,
                    )
                )

    # Running.

    def _fill(self) -> None:
        """Start what waits, as far as slots are free.

        One runner is enough for handlers that never wait: it takes one job after another. While runs do wait, each turn
        of the loop starts twice as many runners.
        """
        self._fill_is_due = False
        self._turn_ends_at = time.monotonic() + TURN_SECONDS_MAX
        self._runners_next = 2 * self._runners_next if self._running else 1
        for _ in range(self._runners_next):
            run = self._next_run(time.monotonic())
            if run is None:
                self._runners_next = 1
                break
            run.task = _start_task(self._loop, self._run_jobs(run))
        else:
            self._fill_soon()
        self._grant()

    def _fill_soon(self) -> None:
        """Fill once for all runs that end in this turn of the loop."""
        if not self._fill_is_due:
            self._fill_is_due = True
            # Not in the context of the run that ended: whatever a handler left there is not for the next one.
            self._loop.call_soon(self._fill, context=self._context)

    def _next_run(self, now: float) -> _Run | None:
        """Take the next job that can run off the line and count it as running; None if there is none, or no slot."""
        while self._waiting and len(self._running) < self.slots - self._executor.stuck:
            job, lease_id = self._waiting.popleft()
            if self._bounds:
                self._waiting_of[job.queue] -= 1
            if now >= self._held.get(lease_id, 0.0):
                self._held.pop(lease_id, None)
            elif (handler := self.handlers.get(job.type)) is not None:
                return self._begin(_Run(job, lease_id, handler))
            else:
                log.warning("no handler for type %r: job %s is given back for another worker", job.type, job.id)
                reason = f"worker {self.worker_id} has no handler for {job.type}"
                self._give_back(lease_id, reason, UNKNOWN_TYPE_DELAY_MS)
        return None

    def _begin(self, run: _Run) -> _Run:
        if run.handler.binding.takes_context:
            run.context = Context(run.job, self._deps, self._loop, self._session.say, self._executor.result_bytes_max)
        self._running[run.lease_id] = run
        return run

    async def _run_jobs(self, first: _Run) -> None:
        """Run a job, and then others that wait, one after another: a task costs more than a short job.

        A handler that leaves a mark on the task - a context variable, a cancellation - has had it for itself.
        """
        # The task's first step can come before `run.task` is set, and its later ones belong to other runs.
        task = asyncio.current_task()
        assert task is not None
        unmarked = contextvars.copy_context()
        run: _Run | None = first
        try:
            while run is not None:
                run.task = task
                await self._run_job(run)
                now = time.monotonic()
                may_go_on = now < self._turn_ends_at and not task.cancelling()
                run = self._next_run(now) if may_go_on and contextvars.copy_context() == unmarked else None
        finally:
            self._fill_soon()

    async def _run_job(self, run: _Run) -> None:
        lease_id = run.lease_id
        ending: Ending | None = None
        try:
            if run.ended_because:
                raise asyncio.CancelledError(run.ended_because)
            self._note_start(run)
            ending = await self._executor.run(run.handler, run.job, run.context)
        except asyncio.CancelledError:
            if run.ended_because == DRAINING:
                ending = pb.Released(lease_id=lease_id, reason="the worker shut down before the run ended")
            elif not run.ended_because:
                # Given back, it would come again at once, uncharged, and for ever.
                message = "the handler's task was cancelled by its own code or a library, not by the worker"
                ending = pb.Failed(lease_id=lease_id, error=message, kind="asyncio.CancelledError")
        finally:
            del self._running[lease_id]
            self._held.pop(lease_id, None)
            self._unreported_starts.pop(lease_id, None)
            self._ended_in_round += 1
            recorded = run.context.recorded if run.context is not None else None
            if recorded is not None:
                # The database has it already: the report tells the server, whatever has ended the run since.
                self._session.report(recorded)
            elif ending is not None and run.ended_because in ("", DRAINING):
                if not isinstance(ending, (pb.Released, pb.Snoozed)):
                    ending.run_ms = int(run.lasted(time.monotonic()) * 1000)
                self._session.report(ending)
            if not self._running:
                self._idle.set()

    def _note_start(self, run: _Run) -> None:
        run.started_at = time.monotonic()
        self._unreported_starts[run.lease_id] = run
        if not self._starts_are_watched:
            self._starts_are_watched = True
            self._loop.call_later(START_REPORT_SECONDS, self._report_starts)

    def _report_starts(self) -> None:
        """Report the starts of runs that are still going on."""
        now = time.monotonic()
        old = [run for run in self._unreported_starts.values() if run.lasted(now) >= START_REPORT_SECONDS]
        for run in old:
            del self._unreported_starts[run.lease_id]
            self._session.started(run.lease_id, int(run.lasted(now) * 1000))
        self._starts_are_watched = bool(self._unreported_starts)
        if self._starts_are_watched:
            self._loop.call_later(START_REPORT_SECONDS, self._report_starts)

    def _give_waiting_back(self, reason: str) -> None:
        while self._waiting:
            self._give_back(self._waiting.popleft()[1], reason)
        self._waiting_of.clear()

    def _give_back(self, lease_id: str, reason: str, delay_ms: int = 0) -> None:
        self._held.pop(lease_id, None)
        self._session.report(pb.Released(lease_id=lease_id, reason=reason, delay_ms=delay_ms))

    def _end(self, lease_id: str, reason: str) -> None:
        """Stop a run whose lease is over, or forget a job that has not started."""
        self._held.pop(lease_id, None)
        run = self._running.get(lease_id)
        if run is None or run.ended_because or run.has_succeeded:
            return
        log.warning("job %s of type %r is stopped: its lease is %s", run.job.id, run.job.type, reason)
        run.end(reason, f"the lease is {reason}")

    # Credit.

    def _grant(self) -> None:
        """Allow as many jobs as keep the pipe full: the slots and what ends within `PREFETCH_SECONDS`."""
        if self._draining:
            return
        window = self.slots - self._executor.stuck + self._prefetch
        target = self._received + window - len(self._running) - len(self._waiting)
        is_starved = not self._running and not self._waiting
        # In quarters of the window, so that leases stay large; at once only for a worker that has nothing left to do.
        is_due = target - self._granted >= max(1, window // 4) or (target > self._granted and is_starved)
        by_queue = self._totals_by_queue() if self._bounds else {}
        if is_due or self._has_places_again(by_queue):
            self._granted, self._granted_by_queue = max(self._granted, target), by_queue
            self._session.grant(self._granted, by_queue)

    def _totals_by_queue(self) -> dict[str, int]:
        """Return what bounded queues may have sent in all: what arrived of them, and what is missing to their bounds.

        Runs are counted anew each time: a count that every end had to give back would be wrong for good after one that
        did not.
        """
        held = Counter(run.job.queue for run in self._running.values())
        held.update(self._waiting_of)
        held.update(self._executor.stuck_of)
        return {queue: self._received_of[queue] + bound - held[queue] for queue, bound in self._bounds.items()}

    def _has_places_again(self, by_queue: Mapping[str, int]) -> bool:
        """Say whether the server should hear of places in a bounded queue: of one at once where there are few.

        Where there are many, of an eighth of them, so that leases stay large.
        """
        return any(
            total - self._granted_by_queue.get(queue, -self._bounds[queue]) >= max(1, self._bounds[queue] // 8)
            for queue, total in by_queue.items()
        )

    async def _measure(self) -> None:
        """Let the prefetch follow the rate at which runs end."""
        while True:
            await asyncio.sleep(RATE_ROUND_SECONDS)
            wished = int(self._ended_in_round * PREFETCH_SECONDS / RATE_ROUND_SECONDS)
            self._ended_in_round = 0
            # Doubling at most, so that one burst does not hoard; halving at most, so that a pause does not starve.
            grown = min(wished, max(self._prefetch * 2, self.slots))
            self._prefetch = min(max(grown, self._prefetch // 2), self.prefetch_jobs_max)
            self._grant()

    # Leases.

    async def _watch_deadlines(self) -> None:
        """Stop runs whose lease was not renewed in time, and give back what no thread will be free for."""
        while True:
            await asyncio.sleep(DEADLINE_ROUND_SECONDS)
            now = time.monotonic()
            # Before the server gives their jobs away.
            for lease_id in [lease_id for lease_id, deadline in self._held.items() if deadline <= now]:
                self._end(lease_id, "lost")
            if self._executor.stuck >= self.slots:
                # Nobody knows for how long: another worker may have a slot.
                self._give_waiting_back("every slot is taken by a thread whose handler does not stop")

    def _to_renew(self) -> list[str]:
        """Name the leases to keep: not of runs that nothing stopped at their timeout, nor of those that succeeded."""
        now = time.monotonic()
        over = {run.lease_id for run in list(self._running.values()) if run.has_succeeded or run.is_overdue(now)}
        return [lease_id for lease_id in list(self._held) if lease_id not in over]

    def _heartbeat_request(self, lease_ids: list[str]) -> pb.HeartbeatRequest:
        """Name what is held, and the starts that the loop has not come to report because a handler blocks it."""
        now = time.monotonic()
        blocked = [run for run in list(self._unreported_starts.values()) if run.lasted(now) > BLOCKED_SECONDS]
        return pb.HeartbeatRequest(
            worker_id=self.worker_id,
            boot_id=self._boot_id,
            lease_ids=lease_ids,
            lease_ttl_seconds=self.lease_ttl_seconds,
            running=len(self._running),
            started=[pb.Started(lease_id=run.lease_id, ago_ms=int(run.lasted(now) * 1000)) for run in blocked],
        )

    def _renewed_in_thread(self, lease_ids: Sequence[str], sent_at: float, reply: pb.HeartbeatReply) -> None:
        self._call_in_loop(self._renewed, lease_ids, sent_at, reply)

    def _renewed(self, lease_ids: Sequence[str], sent_at: float, reply: pb.HeartbeatReply) -> None:
        # The server read its clock after the request was sent, so this deadline comes before the server's.
        deadline = sent_at + reply.lease_expires_in_ms / 1000 * (1 - LEASE_MARGIN)
        for lease_id in lease_ids:
            if lease_id in self._held:
                self._held[lease_id] = deadline
        self.leases_ended(reply.ended)

    def _heartbeat_failed_in_thread(self, error: grpc.RpcError) -> None:
        self._call_in_loop(self._heartbeat_failed, from_grpc(error))

    def _heartbeat_failed(self, error: QuorraError) -> None:
        log.warning("a heartbeat was not taken: %s", error)
        self._session.reconnect()

    def _call_in_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call from the heartbeat's thread, whose last beat may be answered when the worker's loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    # Draining.

    async def _drain(self) -> None:
        """Take no more jobs, give back what has not started, and let what runs end within the grace."""
        self._draining = True
        log.info("draining: %d running, %d not started", len(self._running), len(self._waiting))
        self._session.goodbye("the worker drains")
        self._give_waiting_back("the worker drains")
        deadline = time.monotonic() + (0.0 if self._is_hurried else self.grace_seconds)
        while self._running and time.monotonic() < deadline and not self._is_hurried:
            self._idle.clear()
            await _wait(self._idle, min(deadline - time.monotonic(), DEADLINE_ROUND_SECONDS))
        await self._stop_running()

    async def _stop_running(self) -> None:
        self._cancel_running(DRAINING)
        tasks = [run.task for run in self._running.values() if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=RECEIPTS_SECONDS_MAX)

    def _cancel_running(self, reason: str) -> None:
        for run in list(self._running.values()):
            if not run.ended_because:
                run.end(reason, "the worker shuts down")

    # Connecting.

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            worker_id=self.worker_id,
            boot_id=self._boot_id,
            queues=[
                pb.QueueSubscription(name=name, slots=slots, weight=self.weights.get(name, 0))
                for name, slots in self.queues.items()
            ],
            types=sorted(self.handlers),
            slots=self.slots,
            lease_ttl_seconds=self.lease_ttl_seconds,
            sdk_name=SDK_NAME,
            sdk_version=SDK_VERSION,
            host=socket.gethostname(),
            pid=os.getpid(),
            labels=self._labels,
        )

    def _metadata(self) -> list[tuple[str, str]]:
        return [("x-api-key", self.api_key)] if self.api_key else []


@dataclass(frozen=True, slots=True)
class _Decorator:
    """Turns a function into a handler; keeps its signature, less the context, for `.enqueue()`."""

    _worker: Worker[Any]
    _type: str
    _queue: str
    _timeout: timedelta | None
    _retry: Retry
    _executor: ExecutorName | None

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[Any], P], Coroutine[Any, Any, R]]
    ) -> JobHandler[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> JobHandler[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Context[Any], P], R]) -> JobHandler[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> JobHandler[P, R]: ...

    def __call__(self, function: Callable[..., Any]) -> JobHandler[Any, Any]:
        self._worker.add(
            self._type,
            function,
            queue=self._queue,
            timeout=self._timeout,
            retry=self._retry,
            executor=self._executor,
        )
        return JobHandler(self._worker.handlers[self._type], self._worker.client)


def _start_task(loop: asyncio.AbstractEventLoop, run: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start a task; where Python can (3.12), up to its first wait at once: a handler that never waits costs no turn."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(run, loop=loop, eager_start=True)
    return loop.create_task(run)


def _queues(wanted: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    if isinstance(wanted, str) or not wanted:
        raise ValueError(
            f'queues={wanted!r}: give a list of names, such as ["default"], or a mapping of names to bounds'
        )
    return dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 0)


@asynccontextmanager
async def _no_lifespan() -> AsyncIterator[None]:
    yield None


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
