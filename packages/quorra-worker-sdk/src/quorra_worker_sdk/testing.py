"""Tests of an application's jobs without a server: everything is encoded as it travels, and time moves when told to.

```python
def test_a_new_user_is_welcomed() -> None:
    with TestWorker(worker, deps=Deps(outbox)) as test:
        sign_up("ada@example.com")  # calls send_email.enqueue_sync(to=...)

        test.assert_enqueued(send_email, {"to": "ada@example.com"})
        test.drain_sync()

    assert ["ada@example.com"] == outbox.recipients
```
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Generic

from quorra_proto.v1 import quorra_pb2 as pb
from typing_extensions import TypeVar

from quorra_worker_sdk.client import JobHandler
from quorra_worker_sdk.context import Context
from quorra_worker_sdk.errors import QuorraError
from quorra_worker_sdk.executor import Executor
from quorra_worker_sdk.handlers import Handler
from quorra_worker_sdk.testing_queue import TestClock, TestJob, TestQueue
from quorra_worker_sdk.worker import Worker

__all__ = ["TestClock", "TestJob", "TestWorker", "NothingRuns"]

Deps = TypeVar("Deps", default=None)
# More runs than that in one drain are jobs that submit each other for ever.
RUNS_MAX = 10_000
_FROM_LIFESPAN: Any = object()


class NothingRuns(QuorraError):
    """A drain met a job that the worker could not run, or did not come to an end."""

    code = "nothing_runs"


class TestWorker(Generic[Deps]):
    """Stands between a worker and its server: `.enqueue()` fills a queue in memory, `drain()` runs it here.

    A context manager: inside it, the worker's handlers and `worker.client` talk to the queue of the test. Payloads,
    results and checkpoints are encoded and decoded as they travel. Handlers of other processes run in threads of this
    one.

    Attributes:
        clock: The queue's time: delays and back-offs are over when it is moved. What handlers read themselves is the
            real time.
        jobs: All jobs in the order of their submission.
    """

    __test__ = False

    def __init__(self, worker: Worker[Deps], *, deps: Deps = _FROM_LIFESPAN, clock: TestClock | None = None) -> None:
        """Take the worker, and what its handlers find in `ctx.deps`; without it each drain opens the lifespan."""
        self.clock = clock or TestClock()
        self._worker = worker
        self._deps = deps
        self._queue = TestQueue(self.clock)

    def __enter__(self) -> "TestWorker[Deps]":
        self._worker.client.answer_with(self._queue.answer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.client.answer_with(None)

    @property
    def jobs(self) -> list[TestJob]:
        """All jobs in the order of their submission."""
        return list(self._queue.jobs.values())

    def enqueued(
        self, handler: "JobHandler[..., Any] | str", payload: Mapping[str, Any] | None = None
    ) -> list[TestJob]:
        """Return the jobs of a handler (or type) whose payload has at least these keys with these values."""
        kind = handler.handler.type if isinstance(handler, JobHandler) else handler
        wanted = dict(payload or {})
        return [
            job
            for job in self.jobs
            if job.type == kind and all(key in job.payload and job.payload[key] == wanted[key] for key in wanted)
        ]

    def assert_enqueued(
        self,
        handler: "JobHandler[..., Any] | str",
        payload: Mapping[str, Any] | None = None,
        *,
        times: int | None = None,
        **fields: Any,
    ) -> TestJob | None:
        """Fail unless such a job was enqueued, and return the last one.

        Args:
            handler: The handler, or the type of its jobs.
            payload: What the payload has at least, as JSON shows it.
            times: How often exactly; 0 means never, None at least once.
            fields: Other fields of `TestJob`, such as `queue`, `status`, `priority`, `run_at` or `unique_key`.
        """
        __tracebackhide__ = True
        found = [
            job
            for job in self.enqueued(handler, payload)
            if all(getattr(job, name) == value for name, value in fields.items())
        ]
        if (times is None and not found) or (times is not None and times != len(found)):
            there = "\n".join(f"  {job}" for job in self.jobs) or "  nothing"
            how_often = "at least once" if times is None else f"{times} times"
            name = handler.handler.type if isinstance(handler, JobHandler) else handler
            raise AssertionError(
                f"{name} with {dict(payload or {})} {fields or ''} should have been enqueued {how_often}, "
                f"but was {len(found)} times. Enqueued:\n{there}"
            )
        return found[-1] if found else None

    async def drain(self, *, ever: bool = False) -> list[TestJob]:
        """Run what is due, and what that enqueues, in the order of a real queue; return the jobs that ran.

        A failed job waits for its back-off: move the clock and drain again.

        Args:
            ever: Let the clock move on to whatever waits, until nothing waits any more.

        Raises:
            NothingRuns: A job's type has no handler, or jobs submit each other without end.
        """
        ran: list[TestJob] = []
        async with self._opened_deps() as deps:
            executor = Executor(1, lambda: deps)
            try:
                while job := self._queue.next_due(ever=ever):
                    if len(ran) == RUNS_MAX:
                        raise NothingRuns(f"after {RUNS_MAX:,} runs there are still jobs; do they submit each other?")
                    await self._run(job, executor, deps)
                    ran.append(job)
            finally:
                executor.close()
        return ran

    def drain_sync(self, *, ever: bool = False) -> list[TestJob]:
        """Drain from a test without an event loop."""
        return asyncio.run(self.drain(ever=ever))

    async def _run(self, job: TestJob, executor: Executor, deps: Any) -> None:
        handler = self._worker.handlers.get(job.type)
        if handler is None:
            known = ", ".join(sorted(self._worker.handlers)) or "none"
            raise NothingRuns(f"{job.type!r} has no handler in this worker (it has: {known})")
        message = self._queue.lease(job)

        def say(reports: pb.Reports) -> None:
            self._queue.say(job, reports)

        context: Context[Any] | None = None
        if handler.binding.takes_context:
            context = Context(message, deps, asyncio.get_running_loop(), say)
        ending = await executor.run(_in_this_process(handler), message, context)
        # What a handler said last is on its way through the loop.
        await asyncio.sleep(0)
        if not job.is_over:
            self._queue.settle(job, ending)

    @contextlib.asynccontextmanager
    async def _opened_deps(self) -> AsyncIterator[Any]:
        if self._deps is not _FROM_LIFESPAN:
            yield self._deps
            return
        async with self._worker.lifespan() as deps:
            yield deps


def _in_this_process(handler: Handler[..., Any]) -> Handler[..., Any]:
    return dataclasses.replace(handler, executor="thread") if handler.executor == "process" else handler
