"""The SDK in a user's own transaction, over every kind of connection: enqueue, transaction, inbox. Real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_server.domain.job import LeaseId
from quorra_server.domain.states import JobStatus
from quorra_server.services.lease_ids import text_of
from quorra_worker_sdk import (
    Context,
    InvalidRequest,
    KeyReused,
    LeaseLost,
    NewJob,
    PayloadTooLarge,
    QuorraError,
    Retry,
    inbox,
    sql,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.support.connections import KINDS, User, connected, entered, finished
from tests.support.queue_spec import QueueSpec


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[QueueSpec]:
    async with QueueSpec(database_url) as spec:
        await spec.pool.fetch("CREATE TABLE effects (job_id uuid)")
        await spec.pool.fetch(inbox.CREATE_TABLE)
        yield spec


@pytest.fixture(params=KINDS)
async def user(request: pytest.FixtureRequest, database_url: str, queue: QueueSpec) -> AsyncIterator[User]:
    async with connected(request.param, database_url) as found:
        yield found


def context_of(lease: LeaseId) -> Context[None]:
    message = pb.Job(id=str(lease.job_id), lease_id=text_of(lease), generation=1)
    return Context(message, None, asyncio.get_running_loop(), lambda _: None)


async def effects(queue: QueueSpec) -> int:
    return len(await queue.pool.fetch("SELECT FROM effects"))


async def test_a_job_is_enqueued_if_the_transaction_commits(queue: QueueSpec, user: User) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    job = NewJob(
        "email.send", {"to": "a@b.c"}, queue="mail", priority=-3, run_at=due, max_retries=0, unique_key="k",
        tags=["a", "b,c"], timeout=timedelta(seconds=1.5), retry=Retry(backoff="linear"), id=str(uuid4()),
    )  # fmt: skip

    async with user.transaction():
        submitted = await finished(sql.enqueue(user.connection, job))
        before = await queue.places()
    async with user.transaction():
        again = await finished(sql.enqueue(user.connection, job))

    (found,) = [await queue.job(job_id) for job_id in await queue.places()]
    assert {} == before
    assert (False, True) == (submitted.existing, again.existing)
    assert (job.id, "pending", due) == (submitted.id, submitted.status, submitted.run_at)
    assert ("email.send", '{"to":"a@b.c"}', "mail", -3, due, 0) == (
        found.type, found.payload, found.queue, found.priority, found.run_at, found.max_retries,
    )  # fmt: skip
    assert ("k", ("a", "b,c"), 1500) == (found.unique_key, found.tags, found.timeout_ms)
    assert found.backoff is not None
    assert "linear" == found.backoff.kind


async def test_a_job_of_defaults_and_a_rollback(queue: QueueSpec, user: User) -> None:
    async def enqueue_and_fail() -> None:
        async with user.transaction():
            await finished(sql.enqueue(user.connection, NewJob("t", {})))
            raise ZeroDivisionError

    async with user.transaction():
        kept = await finished(sql.enqueue(user.connection, NewJob("t", {}, delay=timedelta(seconds=5))))
    with pytest.raises(ZeroDivisionError):
        await enqueue_and_fail()

    assert [kept.id] == [str(job_id) for job_id in await queue.places()]
    assert pytest.approx(await queue.seconds_until_due(next(iter(await queue.places()))), abs=0.5) == 5


REFUSED: list[tuple[NewJob, type[QuorraError], str]] = [
    (NewJob("", {}), InvalidRequest, "type"),
    (NewJob("t", [1]), InvalidRequest, "payload"),
    (NewJob("t", {"a": "x" * 2_000_000}), PayloadTooLarge, "payload"),
    (NewJob("t", {}, priority=2**40), InvalidRequest, "priority"),
    (NewJob("t", {}, tags=["a\x1fb"]), InvalidRequest, "tags[0]"),
]


async def test_what_is_refused_names_its_field(user: User) -> None:
    async def enqueue(job: NewJob) -> None:
        async with user.transaction():
            await finished(sql.enqueue(user.connection, job))

    for job, error, field in REFUSED:
        with pytest.raises(error) as refused:
            await enqueue(job)

        assert field == refused.value.field
        assert field.partition("[")[0] in refused.value.message
        assert "\n" not in refused.value.message


async def test_an_id_of_other_work_is_a_reused_key(user: User) -> None:
    job_id = str(uuid4())

    async def enqueue(type: str) -> None:
        async with user.transaction():
            await finished(sql.enqueue(user.connection, NewJob(type, {}, id=job_id)))

    await enqueue("one")

    with pytest.raises(KeyReused):
        await enqueue("other")


async def run(user: User, context: Context[None], *, result: Any = None, error: Exception | None = None) -> None:
    """Do what a handler does: write an effect, and end."""
    async with entered(context.transaction(user.connection)) as completion:
        await user.execute(f"INSERT INTO effects VALUES ('{context.job.id}')")
        completion.result = result
        if error is not None:
            raise error


async def test_the_effect_and_the_success_are_one_commit(queue: QueueSpec, user: User) -> None:
    job_id = await queue.submit_one()
    context = context_of(await queue.lease_one())

    await run(user, context, result={"paid": 10})

    job = await queue.job(job_id)
    assert (JobStatus.SUCCEEDED, '{"paid":10}') == (job.status, job.result)
    assert 1 == await effects(queue)
    assert context.recorded is not None
    assert b'{"paid":10}' == context.recorded.result


async def test_an_error_in_the_block_leaves_neither(queue: QueueSpec, user: User) -> None:
    job_id = await queue.submit_one()
    context = context_of(await queue.lease_one())

    with pytest.raises(ZeroDivisionError):
        await run(user, context, error=ZeroDivisionError())

    assert JobStatus.LEASED == await queue.status_of(job_id)
    assert 0 == await effects(queue)
    assert context.recorded is None


async def test_a_lost_lease_rolls_the_work_back(queue: QueueSpec, user: User) -> None:
    job_id = await queue.submit_one()
    context = context_of(await queue.lease_one())
    await queue.pass_time(31)
    await queue.expire()

    with pytest.raises(LeaseLost, match=str(job_id)):
        await run(user, context)

    assert 0 == await effects(queue)
    assert context.recorded is None
    async with user.transaction():
        await user.execute("SELECT 1")


async def test_a_run_that_should_have_stopped_does_not_complete(queue: QueueSpec, user: User) -> None:
    """A thread cannot be cancelled: its timeout has been reported when it comes to its end."""
    job_id = await queue.submit_one()
    context = context_of(await queue.lease_one())
    context.end("timeout")

    with pytest.raises(LeaseLost, match="timeout"):
        await run(user, context)

    assert JobStatus.LEASED == await queue.status_of(job_id)
    assert 0 == await effects(queue)


async def test_a_transaction_inside_another_is_refused(queue: QueueSpec, user: User) -> None:
    await queue.submit_one()
    context = context_of(await queue.lease_one())

    async with user.transaction():
        await user.execute("SELECT 1")
        with pytest.raises(RuntimeError, match="in a transaction already"):
            await run(user, context)

    assert 0 == await effects(queue)


async def test_the_inbox_lets_each_life_of_a_job_in_once(queue: QueueSpec, user: User) -> None:
    await queue.submit_one()
    job = context_of(await queue.lease_one()).job

    async def enter(*, fails: bool = False) -> bool:
        async with user.transaction():
            first: bool = await finished(inbox.enter(user.connection, job))
            if fails:
                raise ZeroDivisionError
        return first

    with pytest.raises(ZeroDivisionError):
        await enter(fails=True)
    answers = [await enter(), await enter()]
    async with user.transaction():
        kept = await finished(inbox.forget(user.connection, timedelta(hours=1)))
        gone = await finished(inbox.forget(user.connection, timedelta(0)))

    assert [True, False] == answers
    assert (0, 1) == (kept, gone)


@pytest.mark.parametrize("kind", ["asyncpg", "psycopg"])
async def test_the_inbox_wants_a_transaction(kind: str, database_url: str, queue: QueueSpec) -> None:
    await queue.submit_one()
    job = context_of(await queue.lease_one()).job
    async with connected(kind, database_url) as user:
        if kind == "psycopg":
            user.connection.autocommit = True

        with pytest.raises(RuntimeError, match="No transaction is open"):
            await finished(inbox.enter(user.connection, job))


async def commit_each_statement(user: User) -> None:
    """Put a connection of SQLAlchemy's into AUTOCOMMIT, where `begin` begins nothing."""
    options = {"isolation_level": "AUTOCOMMIT"}
    if isinstance(user.connection, (Session, AsyncSession)):
        await finished(user.connection.connection(execution_options=options))
    else:
        await finished(user.connection.execution_options(**options))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("sqlalchemy")])
async def test_the_inbox_takes_autocommit_for_no_transaction(kind: str, database_url: str, queue: QueueSpec) -> None:
    await queue.submit_one()
    job = context_of(await queue.lease_one()).job
    async with connected(kind, database_url) as user:
        await commit_each_statement(user)

        with pytest.raises(RuntimeError, match="No transaction is open"):
            await finished(inbox.enter(user.connection, job))

    assert [] == await queue.pool.fetch("SELECT FROM quorra_inbox")


@pytest.mark.parametrize("kind", ["sqlalchemy", "sqlalchemy asyncpg"])
async def test_a_run_cannot_end_in_autocommit(kind: str, database_url: str, queue: QueueSpec) -> None:
    """Its effect would stay although its success was refused."""
    job_id = await queue.submit_one()
    context = context_of(await queue.lease_one())
    async with connected(kind, database_url) as user:
        await commit_each_statement(user)

        with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            await run(user, context)

    assert JobStatus.LEASED == await queue.status_of(job_id)
    assert 0 == await effects(queue)


async def test_a_connection_of_another_kind_is_named() -> None:
    with pytest.raises(TypeError, match=r"builtins\.object is no connection"):
        await finished(sql.enqueue(object(), NewJob("t", {})))
