"""SQL: jobs that exist if your transaction commits, and runs whose effect and outcome are one commit.

Works on a connection of yours: asyncpg, psycopg 3 or SQLAlchemy, synchronous or not.
"""

from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, overload

import msgspec

from quorra_worker_sdk import codec
from quorra_worker_sdk.drivers import AsyncConnection, Row, SyncConnection, async_driver_of, sync_driver_of
from quorra_worker_sdk.errors import InvalidRequest, KeyReused, LeaseLost, PayloadTooLarge, QuorraError
from quorra_worker_sdk.handlers import Retry

if TYPE_CHECKING:
    from quorra_worker_sdk.client import NewJob, Submitted
    from quorra_worker_sdk.context import Context

# Every argument travels as text, which all drivers write alike; the statement says what it is.
ENQUEUE = """
SELECT CAST(id AS text), existing, status, run_at
FROM quorra.enqueue(
    type => CAST($1 AS text),
    payload => CAST($2 AS text),
    queue => CAST($3 AS text),
    priority => CAST(CAST($4 AS text) AS bigint),
    delay_seconds => CAST(CAST($5 AS text) AS double precision),
    run_at => CAST(CAST($6 AS text) AS timestamptz),
    max_retries => CAST(CAST($7 AS text) AS bigint),
    unique_key => CAST($8 AS text),
    id => CAST(CAST($9 AS text) AS uuid),
    tags => ARRAY(SELECT json_array_elements_text(CAST(CAST($10 AS text) AS json))),
    backoff => CAST(CAST($11 AS text) AS json),
    timeout_seconds => CAST(CAST($12 AS text) AS double precision)
)
"""
COMPLETE = "SELECT quorra.complete(CAST(CAST($1 AS text) AS uuid), CAST($2 AS text), CAST($3 AS text))"

ERRORS: dict[str, type[QuorraError]] = {
    "QR001": LeaseLost,
    "QR002": InvalidRequest,
    "QR003": KeyReused,
    "QR004": PayloadTooLarge,
}


class Completion:
    """What a transaction will record of its run.

    Attributes:
        result: The job's result, anything that JSON can hold; what the handler returns is not looked at.
    """

    def __init__(self) -> None:
        """Begin without a result."""
        self.result: Any = None


@overload
def enqueue(connection: SyncConnection, job: "NewJob") -> "Submitted": ...


@overload
def enqueue(connection: AsyncConnection, job: "NewJob") -> "Coroutine[Any, Any, Submitted]": ...


def enqueue(connection: Any, job: "NewJob") -> "Submitted | Coroutine[Any, Any, Submitted]":
    """Submit a job within the transaction that is open on a connection; await it on an asynchronous one.

    The job exists if and when the transaction commits, and runs within the server's poll interval (1 s).
    `submitted.existing` says that it was merged into a job that existed.

    Raises:
        InvalidRequest: The job is not acceptable; `field` says where. The transaction is to be rolled back.
        KeyReused: The id belongs to another job.
        PayloadTooLarge: The payload is over 1 MiB.
        TypeError: The connection is none that is known.
    """
    arguments = _arguments(job)
    driver = sync_driver_of(connection)
    if driver is None:
        return _enqueue_async(connection, arguments)
    with errors_named():
        return _submitted(driver.fetch_row(connection, ENQUEUE, arguments))


async def _enqueue_async(connection: Any, arguments: Sequence[str | None]) -> "Submitted":
    driver = async_driver_of(connection)
    with errors_named():
        return _submitted(await driver.fetch_row(connection, ENQUEUE, arguments))


@contextmanager
def transaction(connection: Any, context: "Context[Any]") -> Iterator[Completion]:
    """Run a transaction on a synchronous connection that ends a run; see `Context.transaction`."""
    driver = sync_driver_of(connection)
    assert driver is not None
    _refuse_nesting(driver.is_in_transaction(connection))
    completion = Completion()
    with errors_named():
        with driver.transaction(connection):
            yield completion
            result = _last_word(completion, context)
            driver.fetch_row(connection, COMPLETE, (context.job.id, context.job.lease_id, result))
        context.record(result)


@asynccontextmanager
async def transaction_async(connection: Any, context: "Context[Any]") -> AsyncIterator[Completion]:
    """Run a transaction on an asynchronous connection that ends a run; see `Context.transaction`."""
    driver = async_driver_of(connection)
    _refuse_nesting(driver.is_in_transaction(connection))
    completion = Completion()
    with errors_named():
        async with driver.transaction(connection):
            yield completion
            result = _last_word(completion, context)
            await driver.fetch_row(connection, COMPLETE, (context.job.id, context.job.lease_id, result))
        context.record(result)


@contextmanager
def errors_named() -> Iterator[None]:
    """Turn the errors of the SQL functions into the SDK's own; others pass as they are."""
    try:
        yield
    except Exception as error:
        # Each driver has classes of its own; only the SQLSTATE is the same.
        named = _named(error)
        if named is None:
            raise
        raise named from error


def _named(error: BaseException) -> QuorraError | None:
    cause: BaseException | None = error
    while cause is not None:
        kind = ERRORS.get(str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)))
        origin = getattr(cause, "orig", None) or cause.__cause__
        if kind is not None and not isinstance(origin, BaseException):
            return kind(_first_line(cause), field=_field(cause))
        cause = origin
    return None


def _first_line(error: BaseException) -> str:
    diagnosis = getattr(error, "diag", None)
    text = getattr(diagnosis, "message_primary", None) or getattr(error, "message", None) or str(error)
    return str(text).partition("\n")[0]


def _field(error: BaseException) -> str | None:
    found = getattr(error, "column_name", None) or getattr(getattr(error, "diag", None), "column_name", None)
    return None if found is None else str(found)


def _refuse_nesting(is_in_transaction: bool) -> None:
    if is_in_transaction:
        raise RuntimeError(
            "The connection is in a transaction already, whose end the worker could not see; commit it first, or give "
            "a connection of its own."
        )


def _last_word(completion: Completion, context: "Context[Any]") -> str | None:
    """Return the result as JSON text, unless the run should have stopped."""
    reason = context.cancelled()
    if reason is not None:
        raise LeaseLost(f"The run of job {context.job.id} is over ({reason}); its transaction is rolled back.")
    return None if completion.result is None else codec.encode(completion.result).decode()


def _arguments(job: "NewJob") -> tuple[str | None, ...]:
    payload = job.payload if isinstance(job.payload, bytes) else codec.encode(job.payload)
    return (
        job.type,
        payload.decode(),
        job.queue or None,
        str(job.priority),
        _seconds(job.delay),
        _moment(job.run_at),
        None if job.max_retries is None else str(job.max_retries),
        job.unique_key or None,
        job.id or None,
        msgspec.json.encode(list(job.tags)).decode(),
        _backoff(job.retry),
        _seconds(job.timeout),
    )


def _seconds(duration: timedelta | None) -> str | None:
    return None if duration is None else str(duration.total_seconds())


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _backoff(retry: Retry | None) -> str | None:
    if retry is None or retry.backoff is None:
        return None
    rule = {
        "kind": retry.backoff,
        "base_seconds": retry.base_seconds,
        "max_seconds": retry.max_seconds,
        "jitter": retry.jitter,
    }
    return msgspec.json.encode(rule).decode()


def _submitted(row: Row | None) -> "Submitted":
    from quorra_worker_sdk.client import Submitted

    assert row is not None
    job_id, existing, status, run_at = row
    return Submitted(job_id, status, run_at.astimezone(UTC), existing)
