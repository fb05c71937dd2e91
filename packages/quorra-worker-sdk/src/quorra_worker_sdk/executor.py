"""The executor: runs one job to exactly one outcome, as a report that can be sent."""

import asyncio
import contextlib
import logging
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from quorra_proto.v1 import quorra_pb2 as pb

from quorra_worker_sdk import codec
from quorra_worker_sdk.context import RESULT_BYTES_MAX, TIMED_OUT, Context
from quorra_worker_sdk.endings import Ending, Success
from quorra_worker_sdk.handlers import BadPayload, Handler
from quorra_worker_sdk.outcomes import Cancel, Dead, RetryAfter, Snooze, chosen
from quorra_worker_sdk.process_pool import ProcessDied, ProcessPool, RemoteError

log = logging.getLogger("quorra.worker")

THREAD_NAME = "quorra-handler"
ERROR_CHARACTERS_MAX = 16 * 1024
# What a server keeps of a reason.
REASON_BYTES_MAX = 16 * 1024


class Executor:
    """Runs handlers where they belong: on the loop, in a thread, or in a process.

    Attributes:
        stuck: Threads whose run is over and whose handler goes on all the same; each holds a slot.
        stuck_of: The same by queue.
    """

    def __init__(self, slots: int, deps: Callable[[], Any], freed: Callable[[], None] = lambda: None) -> None:
        """Start nothing before it is needed; `deps` returns what the worker's lifespan gave.

        `freed` is called on the loop when a handler that was stuck has ended.
        """
        self.result_bytes_max = RESULT_BYTES_MAX
        self.stuck = 0
        self.stuck_of: Counter[str] = Counter()
        self._slots = slots
        self._deps = deps
        self._freed = freed
        self._threads: ThreadPoolExecutor | None = None
        self._processes: ProcessPool | None = None

    async def run(self, handler: Handler[..., Any], job: pb.Job, context: Context[Any] | None) -> Ending:
        """Run a job and return its outcome. A cancellation from outside is not an outcome, and is passed on."""
        try:
            arguments = handler.binding.arguments(job.payload)
            if handler.executor == "async" and handler.timeout is None and not job.timeout_ms:
                # The common case runs with as few coroutines as can be: each one costs a short job a tenth of its time.
                result = await handler.call(context, arguments)
            else:
                result = await self._within_timeout(handler, job, context, arguments)
            ending = self._success(job.lease_id, result)
        except asyncio.CancelledError as error:
            if _is_cancelled_from_outside():
                raise
            # A handler that lets a cancellation of its own escape has failed.
            ending = _failure(job.lease_id, error, handler)
        except (KeyboardInterrupt, GeneratorExit):
            # Somebody ends the whole process, or throws the coroutine away.
            raise
        except BaseException as error:
            # Whatever a handler raises is how its run ended. A library that exits must not take the worker along.
            ending = _ended_by(job.lease_id, error, handler)
        if context is None or context.recorded is None:
            return ending
        if isinstance(ending, pb.Failed):
            log.warning("job %s failed after its success was committed: %s", job.id, ending.error)
        return context.recorded

    def close(self) -> None:
        """Stop threads and processes."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.close()

    def _success(self, lease_id: str, result: Any) -> Ending:
        if result is None:
            return Success(lease_id)
        encoded = codec.encode(result)
        if len(encoded) > self.result_bytes_max:
            kept = f"at most {self.result_bytes_max:,} are kept: store it elsewhere"
            message = f"the result has {len(encoded):,} bytes; {kept}"
            return pb.Failed(lease_id=lease_id, error=message, kind="ResultTooLarge", non_retryable=True)
        return Success(lease_id, encoded)

    async def _within_timeout(
        self, handler: Handler[..., Any], job: pb.Job, context: Context[Any] | None, arguments: dict[str, Any]
    ) -> Any:
        seconds = timeout_seconds(handler.timeout, job.timeout_ms)
        if seconds is None:
            return await self._call(handler, job, context, arguments)
        try:
            async with asyncio.timeout(seconds) as limit:
                if context is not None:
                    context.limit = limit
                return await self._call(handler, job, context, arguments)
        except TimeoutError as error:
            if limit.expired():
                if context is not None:
                    # A thread cannot be stopped from outside, but it hears of it, and is kept from completing the job.
                    context.end(TIMED_OUT)
                raise TimeoutError(f"the run took longer than its timeout of {seconds:g} s") from error
            raise
        finally:
            if context is not None:
                # An extension that is still on its way through the loop comes too late to move it.
                context.limit = None

    async def _call(
        self, handler: Handler[..., Any], job: pb.Job, context: Context[Any] | None, arguments: dict[str, Any]
    ) -> Any:
        if handler.executor == "process":
            if self._processes is None:
                self._processes = ProcessPool(self._slots)
            return await self._processes.run(handler.function, job.payload, handler.retry.give_up_on)
        if handler.executor == "async":
            return await handler.call(context, arguments)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._slots, thread_name_prefix=THREAD_NAME)
        run = self._threads.submit(handler.call, context, arguments)
        try:
            return await asyncio.wrap_future(run)
        except asyncio.CancelledError:
            if not run.cancel() and not run.done():
                self._note_stuck(run, handler, job.queue)
            raise

    def _note_stuck(self, run: "Future[Any]", handler: Handler[..., Any], queue: str) -> None:
        """Count a thread that cannot be stopped until its handler ends: a job in its slot would wait for it in vain."""
        self._count_stuck(queue, 1)
        log.warning(
            "handler %s of type %r goes on in its thread although its run is over; its slot is taken until it ends",
            handler.function.__qualname__,
            handler.type,
        )
        loop = asyncio.get_running_loop()

        def ended(_: "Future[Any]") -> None:
            # A loop that is closed runs no more jobs.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._note_freed, queue)

        run.add_done_callback(ended)

    def _note_freed(self, queue: str) -> None:
        self._count_stuck(queue, -1)
        self._freed()

    def _count_stuck(self, queue: str, count: int) -> None:
        self.stuck += count
        self.stuck_of[queue] += count


def timeout_seconds(of_handler: timedelta | None, of_job_ms: int) -> float | None:
    """Return how long a run may take: the shorter of what its handler and its job say; None if neither does."""
    limits = [of_job_ms / 1000] if of_job_ms else []
    if of_handler is not None:
        limits.append(of_handler.total_seconds())
    return min(limits, default=None)


def _is_cancelled_from_outside() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0


def _ended_by(lease_id: str, error: BaseException, handler: Handler[..., Any]) -> Ending:
    """Return what a raised error means: an outcome that the handler chose, or a failure. Always returns one."""
    try:
        return _meaning(lease_id, chosen(error) or error, handler)
    except Exception as problem:
        # An error may be of any class: one whose text cannot be made must not leave its job without an end.
        kinds = f"{type(error).__qualname__}, which cannot be reported ({type(problem).__qualname__})"
        return pb.Failed(lease_id=lease_id, error=f"the run ended with {kinds}", kind="UnreportableOutcome")


def _meaning(lease_id: str, error: BaseException, handler: Handler[..., Any]) -> Ending:
    if isinstance(error, Snooze):
        return pb.Snoozed(lease_id=lease_id, delay_ms=error.delay_ms, reason=_reason(error))
    if isinstance(error, RetryAfter):
        return pb.Failed(lease_id=lease_id, error=_reason(error), kind="RetryAfter", retry_after_ms=error.delay_ms)
    if isinstance(error, Cancel):
        return pb.Cancelled(lease_id=lease_id, reason=_reason(error))
    if isinstance(error, Dead):
        return pb.Failed(lease_id=lease_id, error=_reason(error), kind="Dead", non_retryable=True)
    if isinstance(error, BadPayload):
        return pb.Failed(lease_id=lease_id, error=_reason(error), kind="BadPayload", non_retryable=True)
    return _failure(lease_id, error, handler)


def _reason(error: BaseException) -> str:
    return codec.text(error, REASON_BYTES_MAX)


def _failure(lease_id: str, error: BaseException, handler: Handler[..., Any]) -> pb.Failed:
    if isinstance(error, RemoteError):
        kind, text, gives_up = error.kind, str(error), error.is_given_up_on
    else:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        text = str(error) if isinstance(error, ProcessDied) else "".join(traceback.format_exception(error))
        gives_up = isinstance(error, handler.retry.give_up_on)
    return pb.Failed(
        lease_id=lease_id,
        # The end of a traceback says what happened; the beginning is the frames of the SDK.
        error=codec.text(text)[-ERROR_CHARACTERS_MAX:],
        kind=codec.text(kind.removeprefix("builtins.")),
        non_retryable=gives_up,
    )
