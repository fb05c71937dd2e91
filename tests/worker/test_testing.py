"""`quorra_worker_sdk.testing`: what users test their jobs with, without a server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from quorra_worker_sdk import (
    Cancel,
    Context,
    Dead,
    IllegalTransition,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    JobState,
    KeyReused,
    NewJob,
    PayloadTooLarge,
    Retry,
    RetryAfter,
    Snooze,
    WaitTimedOut,
    Worker,
)
from quorra_worker_sdk.testing import NothingRuns, TestClock, TestJob, TestWorker

from tests.support.processes import RunningServer

pytest_plugins = ["quorra_worker_sdk.pytest_plugin"]

opened: list[str] = []


@asynccontextmanager
async def lifespan() -> AsyncIterator[list[str]]:
    opened.append("opened")
    yield ["from the lifespan"]
    opened.append("closed")


worker: Worker[list[str]] = Worker("localhost:1", queues=["app"], lifespan=lifespan)


class Order(msgspec.Struct):
    id: int
    due: datetime


@worker.job("mail", retry=Retry(max_retries=2))
async def mail(ctx: Context[list[str]], to: str, subject: str = "hi") -> str:
    if "@" not in to:
        raise ValueError(f"{to} is no address")
    ctx.deps.append(to)
    ctx.progress(1, 1)
    return f"to {to}: {subject}"


@worker.job("ship")
def ship(order: Order) -> Order:
    return order


@worker.job("render", executor="process")
def render(pages: int) -> bytes:
    return b"x" * pages


@worker.job("place")
async def place(ctx: Context[list[str]], order: Order) -> None:
    await mail.options(delay=timedelta(hours=1)).enqueue(to="a@b.c")
    await ship.options(unique_key=f"ship:{order.id}").enqueue(order)


@worker.job("place_in_thread")
def place_in_thread() -> None:
    mail.enqueue_sync(to="thread@b.c")


@worker.job("ends")
async def ends(ctx: Context[list[str]], kind: str) -> int:
    if ctx.last_checkpoint():
        return ctx.job.attempt
    ctx.checkpoint({"seen": kind})
    raise {
        "snooze": Snooze(60, "later"), "retry": RetryAfter(90, "busy"), "cancel": Cancel("no"), "dead": Dead("never"),
    }[kind]  # fmt: skip


@worker.job("forever")
async def forever() -> None:
    await forever.enqueue()


DUE = datetime(2030, 1, 2, tzinfo=UTC)
Make = Callable[..., TestWorker[Any]]


@pytest.fixture
def test(quorra_test: Make) -> TestWorker[list[str]]:
    return quorra_test(worker, deps=[])


async def test_what_is_enqueued_runs_in_a_drain_and_its_result_can_be_awaited(test: TestWorker[Any]) -> None:
    done = await mail.enqueue(to="a@b.c", subject="x")
    with pytest.raises(WaitTimedOut, match="drain"):
        await done.result()

    ran = await test.drain()

    assert "to a@b.c: x" == await done.result()
    assert [("mail", "succeeded", 1)] == [(job.type, job.status, job.attempts) for job in ran]
    assert 1 == ran[0].reports[0].progress[0].done


def test_without_an_event_loop_it_works_the_same(quorra_test: Make) -> None:
    test = quorra_test(worker, deps=[])
    place_in_thread.enqueue_sync()

    ran = test.drain_sync()

    assert ["place_in_thread", "mail"] == [job.type for job in ran]


async def test_payloads_and_results_are_really_encoded(test: TestWorker[Any]) -> None:
    shipped = await ship.enqueue(Order(1, DUE))
    rendered = await render.enqueue(3)

    await test.drain()

    assert {"id": 1, "due": "2030-01-02T00:00:00Z"} == test.enqueued(ship)[0].payload
    assert Order(1, DUE) == await shipped.result()
    assert b"xxx" == await rendered.result()
    with pytest.raises(TypeError):
        await mail.enqueue(to=object())  # type: ignore[arg-type]


async def test_a_payload_that_does_not_fit_is_dead_at_once(test: TestWorker[Any]) -> None:
    await worker.client.submit(NewJob("mail", {"too": "a@b.c"}))

    (job,) = await test.drain()

    assert ("dead", 1) == (job.status, job.attempts)
    assert "too" in job.errors[0]


async def test_time_moves_when_it_is_told_to(test: TestWorker[Any]) -> None:
    await mail.options(delay=timedelta(hours=1)).enqueue(to="a@b.c")

    assert [] == await test.drain()
    test.clock.advance(timedelta(minutes=59))
    assert [] == await test.drain()
    test.clock.advance(timedelta(minutes=1))
    assert ["succeeded"] == [job.status for job in await test.drain()]
    with pytest.raises(ValueError, match="backwards"):
        test.clock.advance(timedelta(seconds=-1))


async def test_failures_back_off_2_and_4_seconds_and_end_dead(test: TestWorker[Any], quorra_clock: TestClock) -> None:
    begin = quorra_clock.now
    done = await mail.enqueue(to="nobody")

    ran = await test.drain(ever=True)

    job = test.jobs[0]
    assert [job, job, job] == ran
    assert timedelta(seconds=2 + 4) == quorra_clock.now - begin
    assert ("dead", 3, 3) == (job.status, job.attempts, len(job.errors))
    with pytest.raises(JobFailed, match="nobody is no address"):
        await done.result()


@pytest.mark.parametrize(
    ("kind", "status", "attempts", "seconds"),
    [
        ("snooze", "succeeded", 1, 60),
        ("retry", "succeeded", 2, 90),
        ("cancel", "cancelled", 1, 0),
        ("dead", "dead", 1, 0),
    ],
)
async def test_outcomes_and_checkpoints_are_as_with_a_server(
    test: TestWorker[Any], kind: str, status: str, attempts: int, seconds: int
) -> None:
    begin = test.clock.now
    await ends.enqueue(kind)

    await test.drain(ever=True)

    (job,) = test.jobs
    assert (status, attempts) == (job.status, job.attempts)
    assert timedelta(seconds=seconds) == test.clock.now - begin
    assert job.result in (None, attempts)


async def test_an_assertion_finds_a_job_or_shows_what_is_there(test: TestWorker[Any]) -> None:
    await place.enqueue(Order(7, DUE))
    await test.drain()

    delayed = test.assert_enqueued(mail, {"to": "a@b.c"}, queue="app")
    assert isinstance(delayed, TestJob)
    assert timedelta(hours=1) == delayed.run_at - test.clock.now
    test.assert_enqueued("ship", {"id": 7}, times=1, unique_key="ship:7", status="succeeded")
    test.assert_enqueued(render, times=0)
    with pytest.raises(AssertionError, match=r"mail with \{'to': 'x'\}.*at least once, but was 0 times(.|\n)*a@b\.c"):
        test.assert_enqueued(mail, {"to": "x"})
    with pytest.raises(AssertionError, match="0 times, but was 1 times"):
        test.assert_enqueued(mail, times=0)


async def test_priority_comes_first_and_keys_merge(test: TestWorker[Any]) -> None:
    low = await mail.enqueue(to="low@b.c")
    high = await mail.options(priority=9).enqueue(to="high@b.c")
    first = await ship.options(unique_key="k").enqueue(Order(1, DUE))
    merged = await ship.options(unique_key="k").enqueue(Order(2, DUE))
    repeated = await worker.client.submit(NewJob("mail", {"to": "x@b.c"}), idempotency_key="once")
    again = await worker.client.submit(NewJob("mail", {"to": "x@b.c"}), idempotency_key="once")

    ran = [job.id for job in await test.drain()]
    anew = await ship.options(unique_key="k").enqueue(Order(3, DUE))

    assert [high.id, low.id] == [job_id for job_id in ran if job_id in (low.id, high.id)]
    assert (first.id, True) == (merged.id, merged.existing)
    assert (repeated.id, True) == (again.id, again.existing)
    assert not anew.existing
    with pytest.raises(KeyReused):
        await worker.client.submit(NewJob("mail", {"to": "y@b.c"}), idempotency_key="once")


async def test_an_idempotency_key_goes_with_one_queue_and_a_unique_key_with_any_work(test: TestWorker[Any]) -> None:
    async def submit(queue: str, *, n: int = 1, unique_key: str = "", key: str) -> str:
        job = NewJob("mail", {"n": n}, queue=queue, unique_key=unique_key)
        return (await worker.client.submit(job, idempotency_key=key)).id

    made = await submit("", key="made", unique_key="u")
    merged = [await submit("b", n=2, key="merged", unique_key="u") for _ in range(2)]
    await worker.client.cancel(made)
    merged.append(await submit("b", n=2, key="merged", unique_key="u"))

    assert [made] * 3 == merged
    assert made == await submit("default", key="made")
    with pytest.raises(KeyReused):
        await submit("b", key="made", unique_key="u")


async def test_a_batch_is_recorded_whole_or_not_at_all(test: TestWorker[Any]) -> None:
    taken = await worker.client.submit(NewJob("mail", {}, id="0197A1B2-0000-7000-8000-0000000000aa"))
    good, bad, reused = NewJob("mail", {}), NewJob("mail", {}, max_retries=-1), NewJob("ship", {}, id=taken.id)

    with pytest.raises(InvalidRequest) as refused:
        await worker.client.submit_many([good, bad])
    with pytest.raises(KeyReused):
        await worker.client.submit_many([good, reused])

    assert "jobs[1].max_retries" == refused.value.field
    assert [taken.id] == [job.id for job in test.jobs]


async def test_an_id_that_comes_twice_in_a_batch_is_one_job_or_refused(test: TestWorker[Any]) -> None:
    job = NewJob("mail", {"n": 1}, id="0197a1b2-0000-7000-8000-0000000000aa")
    other = NewJob("mail", {"n": 2}, id=job.id.upper())

    with pytest.raises(KeyReused) as refused:
        await worker.client.submit_many([job, other])
    stored = list(test.jobs)
    answers = await worker.client.submit_many([job, job])

    assert ("jobs[1].id", []) == (refused.value.field, stored)
    assert [(job.id, False), (job.id, True)] == [(answer.id, answer.existing) for answer in answers]
    assert [job.id] == [kept.id for kept in test.jobs]


async def test_an_exponential_back_off_grows_up_to_the_longest_of_its_rule(test: TestWorker[Any]) -> None:
    rule = Retry(backoff="exponential", base_seconds=1, max_seconds=86_400)
    await worker.client.submit(NewJob("mail", {"to": "nobody"}, max_retries=18, retry=rule))
    begin = test.clock.now

    await test.drain(ever=True)

    waited = sum(2**exponent for exponent in range(17)) + 86_400
    assert timedelta(seconds=waited) == test.clock.now - begin


async def test_a_failed_job_is_pending_again_when_its_time_has_come(test: TestWorker[Any]) -> None:
    done = await mail.enqueue(to="nobody")
    await test.drain()
    before = test.jobs[0].status

    test.clock.advance(timedelta(seconds=2))

    assert ("failed", "pending") == (before, test.jobs[0].status)
    assert "pending" == (await worker.client.get(done.id)).status
    with pytest.raises(IllegalTransition, match="is pending"):
        await worker.client.retry(done.id)


async def test_the_client_is_answered_as_by_a_server(test: TestWorker[Any]) -> None:
    client = worker.client
    many = await client.submit_many([NewJob("mail", {"to": "a@b.c"}, delay=timedelta(hours=1))] * 3)
    with pytest.raises(InvalidRequest):
        await client.submit(NewJob("", {}))
    with pytest.raises(InvalidRequest):
        client.synchronous.submit(NewJob("mail", [1]))

    retried = await client.retry(many[0].id)
    cancelled = await client.cancel(many[1].id)
    await test.drain()

    assert ("pending", "cancelled") == (retried.status, cancelled.status)
    assert "succeeded" == (await client.get(many[0].id)).status
    with pytest.raises(IllegalTransition):
        await client.cancel(many[0].id)
    with pytest.raises(IllegalTransition):
        await client.retry(many[0].id)


async def test_a_dead_job_can_be_replayed(test: TestWorker[Any]) -> None:
    done = await mail.enqueue(to="nobody")
    await test.drain(ever=True)

    await worker.client.retry(done.id)
    await test.drain(ever=True)

    job = test.jobs[0]
    assert ("dead", 2, 3, 6) == (job.status, job.generation, job.attempts, job.deliveries)


async def test_a_dead_job_stays_dead_while_another_one_has_its_unique_key(test: TestWorker[Any]) -> None:
    done = await mail.options(unique_key="k").enqueue(to="nobody")
    await test.drain(ever=True)
    await mail.options(unique_key="k").enqueue(to="nobody")

    with pytest.raises(IllegalTransition, match="unique key"):
        await worker.client.retry(done.id)

    assert ["dead", "pending"] == [job.status for job in test.jobs]


async def test_a_lifespan_is_opened_for_a_drain_unless_deps_are_given(quorra_test: Make) -> None:
    opened.clear()
    test = quorra_test(worker)
    await mail.enqueue(to="a@b.c")

    (job,) = await test.drain()

    assert "succeeded" == job.status
    assert ["opened", "closed"] == opened


async def test_a_drain_that_cannot_end_says_so(test: TestWorker[Any]) -> None:
    await worker.client.submit(NewJob("unknown", {}))
    with pytest.raises(NothingRuns, match="'unknown' has no handler"):
        await test.drain()
    await worker.client.cancel(test.jobs[0].id)
    await forever.enqueue()

    with pytest.raises(NothingRuns, match="submit each other"):
        await test.drain()


def test_after_the_test_the_client_talks_to_its_server_again() -> None:
    with TestWorker(worker, deps=[]):
        mail.enqueue_sync(to="a@b.c")

    assert worker.client._stand_in is None


def test_a_handler_can_still_be_called_as_the_function_it_is() -> None:
    assert b"xx" == render(2)


async def test_the_queue_of_a_test_refuses_what_a_server_refuses(test: TestWorker[Any]) -> None:
    client = worker.client
    with pytest.raises(InvalidRequest, match="max_retries"):
        await mail.options(max_retries=-1).enqueue(to="a@b.c")
    with pytest.raises(InvalidRequest, match="queue"):
        await mail.options(queue="q\n" * 300).enqueue(to="a@b.c")
    with pytest.raises(InvalidRequest, match="NUL"):
        await mail.enqueue(to="a\0b")
    with pytest.raises(PayloadTooLarge):
        await client.submit_many([NewJob("mail", {})] * 10_001)
    with pytest.raises(InvalidRequest, match="id"):
        await client.get("nope")
    with pytest.raises(JobNotFound):
        await client.get("019ab3f0-7c1e-7000-8000-000000000000")

    assert [] == test.jobs


def _application(server: RunningServer) -> Worker[None]:
    app: Worker[None] = Worker(server.grpc_address, api_key=server.api_key, queues=["as-real"], slots=5)

    @app.job("ends", retry=Retry(max_retries=1, backoff="fixed", base_seconds=0.01, give_up_on=(KeyError,)))
    async def ends(ctx: Context[None], kind: str) -> object:
        if ctx.last_checkpoint():
            return {"attempt": ctx.job.attempt, "of": ctx.job.max_retries}
        if kind in ("snooze", "retry"):
            ctx.checkpoint(kind)
        raise {
            "snooze": Snooze(0.01), "retry": RetryAfter(0.01), "cancel": Cancel(), "dead": Dead("never"),
            "error": ValueError("no"), "given up": KeyError("x"),
        }[kind]  # fmt: skip

    return app


async def test_jobs_end_as_they_do_with_a_real_server(shared_server: RunningServer) -> None:
    app = _application(shared_server)
    payloads = [{"kind": kind} for kind in ("snooze", "retry", "cancel", "dead", "error", "given up")]
    payloads.append({"kid": "misfit"})
    retry = app.handlers["ends"].retry
    jobs = [NewJob("ends", payload, queue="as-real", max_retries=1, retry=retry) for payload in payloads]

    serving = asyncio.create_task(app.serve())
    submitted = await app.client.submit_many(jobs)
    real = [await app.client.wait(job.id, timeout=timedelta(seconds=20)) for job in submitted]
    app.stop()
    await serving
    with TestWorker(app) as test:
        submitted = await app.client.submit_many(jobs)
        await test.drain(ever=True)
        tested = [await app.client.get(job.id) for job in submitted]

    assert [_shown(job) for job in real] == [_shown(job) for job in tested]


def _shown(job: JobState) -> tuple[object, ...]:
    error = (job.last_error or "").splitlines()[-1:]
    return job.payload, job.status, job.attempts, job.deliveries, job.generation, job.result, error
