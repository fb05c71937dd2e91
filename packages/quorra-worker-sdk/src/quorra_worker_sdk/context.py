"""What a handler is given beside its payload."""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, overload

from quorra_proto.v1 import quorra_pb2 as pb

from quorra_worker_sdk import codec, sql
from quorra_worker_sdk.drivers import AsyncConnection, SyncConnection, sync_driver_of
from quorra_worker_sdk.endings import Success
from quorra_worker_sdk.errors import LeaseLost, PayloadTooLarge

Deps = TypeVar("Deps")
# A run that ends for this reason still holds its lease.
DRAINING = "draining"
TIMED_OUT = "timeout"
# The largest result and checkpoint, unless the server says otherwise.
RESULT_BYTES_MAX = 256 * 1024
# What a server keeps of these; more of it would only fill the stream.
LOG_LINE_BYTES_MAX = 4 * 1024
LEVEL_BYTES_MAX = 20
NOTE_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """The job that a handler runs.

    Attributes:
        attempt: This run, counted from 1.
    """

    id: str
    type: str
    queue: str
    priority: int
    attempt: int
    max_retries: int
    generation: int
    created_at: datetime
    lease_id: str

    @classmethod
    def of(cls, message: pb.Job) -> "Job":
        """Return the job of a message."""
        return cls(
            id=message.id,
            type=message.type,
            queue=message.queue,
            priority=message.priority,
            attempt=message.attempts + 1,
            max_retries=message.max_retries,
            generation=message.generation,
            created_at=message.created_at.ToDatetime(tzinfo=UTC),
            lease_id=message.lease_id,
        )


class Context(Generic[Deps]):
    """One run, as its handler sees it; safe to use from the handler's thread.

    Whatever tells the server something raises `LeaseLost` once the lease is over: nobody listens any more, and a
    thread, which cannot be stopped from outside, stops there.
    """

    def __init__(
        self,
        message: pb.Job,
        deps: Deps,
        loop: asyncio.AbstractEventLoop,
        say: Callable[[pb.Reports], None],
        checkpoint_bytes_max: int = RESULT_BYTES_MAX,
    ) -> None:
        """Take the job, what the worker's lifespan gave, and how to reach the server; call it on the loop."""
        self._message = message
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._say = say
        self._checkpoint_bytes_max = checkpoint_bytes_max
        self._ended: str | None = None
        self._job: Job | None = None
        self._extra_seconds = 0.0
        self._recorded: Success | None = None
        self._positions = itertools.count(1)
        self.limit: asyncio.Timeout | None = None
        self.deps = deps
        self.log = logging.LoggerAdapter(
            logging.getLogger("quorra.job"), {"job_id": message.id, "attempt": message.attempts + 1}
        )

    @property
    def job(self) -> Job:
        """The job."""
        if self._job is None:
            self._job = Job.of(self._message)
        return self._job

    @property
    def idempotency_key(self) -> str:
        """A key that is the same on every attempt, to pass on to whoever can recognise a repetition."""
        return f"{self._message.id}-{self._message.generation}"

    @property
    def extra_seconds(self) -> float:
        """How much longer than its timeout the run may take, by what it asked for with `extend`."""
        return self._extra_seconds

    def cancelled(self) -> str | None:
        """Return why the run should stop (`cancelled`, `lost`, `timeout`, `draining`), or None; for threads."""
        return self._ended

    def progress(self, done: int, total: int = 0, note: str = "") -> None:
        """Say how far the run is; people see the last word, and 16 KiB of a note."""
        kept = codec.text(note, NOTE_BYTES_MAX)
        self._tell(
            pb.Reports(progress=[pb.Progress(lease_id=self._message.lease_id, done=done, total=total, note=kept)])
        )

    def checkpoint(self, value: Any) -> None:
        """Keep a value (anything that JSON can hold) for the next attempt, if there is one.

        Raises:
            PayloadTooLarge: As JSON it is larger than a result may be; nothing was kept.
        """
        encoded = codec.encode(value)
        if len(encoded) > self._checkpoint_bytes_max:
            kept = f"at most {self._checkpoint_bytes_max:,} are kept: store it elsewhere, and keep where"
            raise PayloadTooLarge(f"the checkpoint has {len(encoded):,} bytes; {kept}", field="checkpoint")
        self._tell(pb.Reports(checkpoints=[pb.Checkpoint(lease_id=self._message.lease_id, value=encoded)]))

    def last_checkpoint(self, kind: Any = Any) -> Any:
        """Return what an earlier attempt kept, as `kind`; None if there is nothing."""
        return codec.decoder(kind)(self._message.checkpoint) if self._message.checkpoint else None

    def log_line(self, message: str, level: str = "info") -> None:
        """Add a line (4 KiB of it) to the job's log, which people read beside its history."""
        line = pb.LogLine(
            lease_id=self._message.lease_id,
            level=codec.text(level, LEVEL_BYTES_MAX),
            message=codec.text(message, LOG_LINE_BYTES_MAX),
            position=next(self._positions),
        )
        self._tell(pb.Reports(logs=[line]))

    def extend(self, more: timedelta) -> None:
        """Let this run take longer than its timeout says, by so much; without a timeout there is nothing to extend.

        The lease needs no extension: it is renewed for as long as the run goes on.
        """
        self._check_lease()
        self._loop.call_soon_threadsafe(self._move_deadline, more.total_seconds())

    @overload
    def transaction(self, connection: SyncConnection) -> AbstractContextManager[sql.Completion]: ...

    @overload
    def transaction(self, connection: AsyncConnection) -> AbstractAsyncContextManager[sql.Completion]: ...

    def transaction(
        self, connection: Any
    ) -> AbstractContextManager[sql.Completion] | AbstractAsyncContextManager[sql.Completion]:
        """Run a transaction on a connection to Quorra's own PostgreSQL: what it writes and the success are one commit.

            async with ctx.transaction(connection) as run:
                await connection.execute("UPDATE accounts ...")
                run.result = {"paid": 10}

        An error in the block rolls all of it back and fails the run as usual. After the block the job has succeeded,
        whatever the handler does then. `with`, not `async with`, on a synchronous connection.

        Raises:
            LeaseLost: The lease is over; the transaction was rolled back.
            RuntimeError: The connection is in a transaction already, or in AUTOCOMMIT.
        """
        if sync_driver_of(connection) is not None:
            return sql.transaction(connection, self)
        return sql.transaction_async(connection, self)

    def record(self, result: str | None) -> None:
        """Note that the database holds the success of this run, with its result as JSON text."""
        self._recorded = Success(self._message.lease_id, (result or "").encode())

    @property
    def recorded(self) -> Success | None:
        """The success that the database holds already, if it does; reporting it again is harmless."""
        return self._recorded

    def _move_deadline(self, seconds: float) -> None:
        limit = self.limit
        if limit is not None and not limit.expired() and (when := limit.when()) is not None:
            limit.reschedule(when + seconds)
            self._extra_seconds += seconds
            extra_ms = int(self._extra_seconds * 1000)
            self._say(pb.Reports(extended=[pb.Extended(lease_id=self._message.lease_id, extra_ms=extra_ms)]))

    def end(self, reason: str) -> None:
        """Note that the run should stop; called by the worker."""
        self._ended = reason

    def _check_lease(self) -> None:
        if self._ended not in (None, DRAINING):
            raise LeaseLost(f"this run of job {self._message.id} is over ({self._ended}); its result will be dropped")

    def _tell(self, report: pb.Reports) -> None:
        self._check_lease()
        if threading.get_ident() == self._loop_thread:
            # At once: what is said in a later turn of the loop may leave after the outcome, and is not heard then.
            self._say(report)
        else:
            self._loop.call_soon_threadsafe(self._say, report)
