"""What a worker says in moments that a real server cannot be held in: between two streams, while it drains."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_worker_sdk import Context, Worker
from quorra_worker_sdk.channels import open_aio_channel
from quorra_worker_sdk.endings import Success
from quorra_worker_sdk.session import Session

from tests.support.scripted_server import SECONDS_MAX, Deaf, ScriptedServer, ScriptedStream, a_job, scripted_server

SLOTS = 3
# However low a server's bounds are set, it takes so much.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as server:
        yield server


@asynccontextmanager
async def _serving(worker: Worker[None]) -> AsyncIterator[None]:
    serving = asyncio.create_task(worker.serve())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait_for(serving, SECONDS_MAX)


async def _do_nothing() -> None: ...


def _worker(server: ScriptedServer, slots: int = SLOTS, **settings: Any) -> Worker[None]:
    return Worker(server.address, slots=slots, api_key="unused", prefetch_jobs_max=0, **settings)


async def test_a_new_stream_is_granted_no_more_than_the_slots_while_old_runs_end(server: ScriptedServer) -> None:
    """The total of the stream before would be credit for all its jobs once more."""
    worker, may_end = _worker(server), asyncio.Event()

    @worker.job("work")
    async def work() -> None:
        await may_end.wait()

    async with _serving(worker):
        first = await server.stream()
        await first.welcome()
        await first.hear("credit")
        await first.send_jobs(*(a_job() for _ in range(SLOTS)))
        while not (await first.hear("reports")).started:
            pass
        first.break_off()
        second = await server.stream()
        may_end.set()
        # Its credit, if any, leaves in the same turn of the loop; what is said next comes after it.
        ended = await second.hear_outcome()
        await second.welcome()
        credit = await second.hear("credit")

    assert isinstance(ended, pb.Succeeded)
    assert SLOTS == credit.granted_total


async def test_jobs_that_arrive_while_the_worker_drains_are_given_back_at_once(server: ScriptedServer) -> None:
    worker, may_end = _worker(server, slots=1), asyncio.Event()

    @worker.job("work")
    async def work() -> None:
        await may_end.wait()

    running, late = a_job(), a_job()
    async with _serving(worker):
        stream = await server.stream()
        await stream.welcome()
        await stream.send_jobs(running)
        await stream.hear("reports")
        worker.stop()
        await stream.hear("goodbye")
        await stream.send_jobs(late)
        given_back = await stream.hear_outcome()
        may_end.set()

    assert isinstance(given_back, pb.Released)
    assert (late.lease_id, "the worker drains") == (given_back.lease_id, given_back.reason)


async def test_a_job_waits_for_no_slot_whose_thread_goes_on_after_its_timeout(server: ScriptedServer) -> None:
    """Its own timeout would end it before a thread is free, without a run."""
    worker, may_end = _worker(server, slots=1), threading.Event()

    @worker.job("stuck", timeout=timedelta(milliseconds=50))
    def stuck() -> None:
        may_end.wait()

    @worker.job("work", timeout=timedelta(seconds=2))
    def work() -> None: ...

    waiting, later = a_job("work"), a_job("work")
    async with _serving(worker):
        stream = await server.stream()
        await stream.welcome()
        await stream.hear("credit")
        await stream.send_jobs(a_job("stuck"))
        timed_out = await stream.hear_outcome()
        await stream.send_jobs(waiting)
        given_back = await stream.hear_outcome()
        granted_meanwhile = [message for message in stream.heard if message.HasField("credit")][1:]
        may_end.set()
        await stream.hear("credit")
        await stream.send_jobs(later)
        ended = await stream.hear_outcome()

    assert "TimeoutError" == timed_out.kind
    assert (pb.Released, waiting.lease_id) == (type(given_back), given_back.lease_id)
    assert [] == granted_meanwhile
    assert (pb.Succeeded, later.lease_id) == (type(ended), ended.lease_id)


async def test_a_place_in_a_bounded_queue_is_free_only_when_its_thread_is(server: ScriptedServer) -> None:
    worker, may_end = _worker(server, slots=4, queues={"scarce": 1, "plenty": 3}), threading.Event()

    @worker.job("stuck", timeout=timedelta(milliseconds=50))
    def stuck() -> None:
        may_end.wait()

    @worker.job("work")
    def work() -> None: ...

    async with _serving(worker):
        stream = await server.stream()
        await stream.welcome()
        first = await stream.hear("credit")
        await stream.send_jobs(a_job("stuck", queue="scarce"))
        assert "TimeoutError" == (await stream.hear_outcome()).kind
        await stream.send_jobs(a_job("work", queue="plenty"))
        await stream.hear_outcome()
        meanwhile = await stream.hear("credit")
        may_end.set()
        while (credit := await stream.hear("credit")).granted_totals_by_queue["scarce"] == 1:
            pass

    assert {"scarce": 1, "plenty": 3} == dict(first.granted_totals_by_queue)
    assert {"scarce": 1, "plenty": 4} == dict(meanwhile.granted_totals_by_queue)
    assert {"scarce": 2, "plenty": 4} == dict(credit.granted_totals_by_queue)


async def test_what_a_handler_does_after_its_transaction_is_not_cut_short(server: ScriptedServer) -> None:
    """The transaction ended the lease, as the server says at the next heartbeat; the run has succeeded."""
    worker, has_committed, may_end = _worker(server), asyncio.Event(), asyncio.Event()

    @worker.job("work")
    async def work(ctx: Context[None]) -> None:
        ctx.record('"done"')
        has_committed.set()
        await may_end.wait()
        tail.append("ran")

    tail: list[str] = []
    job = a_job()
    async with _serving(worker):
        stream = await server.stream()
        await stream.welcome()
        await stream.send_jobs(job)
        await asyncio.wait_for(has_committed.wait(), SECONDS_MAX)
        await stream.say(notice=pb.Notice(ended=[pb.LeaseEnded(lease_id=job.lease_id, reason="lost")]))
        # Messages are taken in turn: the second job ends after the notice was taken.
        await stream.send_jobs(a_job("unknown"))
        assert isinstance(await stream.hear_outcome(), pb.Released)
        may_end.set()
        ended = await stream.hear_outcome()

    assert ["ran"] == tail
    assert (job.lease_id, b'"done"') == (ended.lease_id, ended.result)


async def test_a_run_whose_transaction_has_committed_is_renewed_no_more(server: ScriptedServer) -> None:
    worker, may_commit, may_end = _worker(server), asyncio.Event(), asyncio.Event()
    has_committed = asyncio.Event()

    @worker.job("work")
    async def work(ctx: Context[None]) -> None:
        await may_commit.wait()
        ctx.record(None)
        has_committed.set()
        await may_end.wait()

    job = a_job()
    async with _serving(worker):
        stream = await server.stream()
        await stream.welcome()
        await stream.send_jobs(job)
        async with asyncio.timeout(SECONDS_MAX):
            while await server.renewed.get() != [job.lease_id]:
                pass
            may_commit.set()
            await has_committed.wait()
            # One more may be under way with what was held before.
            while await server.renewed.get() != []:
                pass
        may_end.set()
        await stream.hear_outcome()


@asynccontextmanager
async def _beating(server: ScriptedServer) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Let a worker send heartbeats all the time; yields what waits until it has sent so many more: a clock of beats."""
    worker = _worker(server)
    worker.add("work", _do_nothing)

    async def beats(count: int) -> None:
        until = server.beaten_by[worker.worker_id] + count
        async with asyncio.timeout(SECONDS_MAX):
            while server.beaten_by[worker.worker_id] < until:
                await server.renewed.get()

    async with _serving(worker):
        await (await server.stream()).welcome(sees_idle_workers=False)
        yield beats


async def test_an_idle_worker_sends_no_heartbeats_to_a_server_that_sees_its_stream(server: ScriptedServer) -> None:
    """A thousand of them would keep the server busy with nothing."""
    worker = _worker(server)
    worker.add("work", _do_nothing)
    async with _beating(server) as beats, _serving(worker):
        await (await server.stream()).welcome(sees_idle_workers=True)
        await beats(3)

    assert 0 == server.beaten_by[worker.worker_id]


async def test_a_worker_renews_what_it_holds_and_says_once_that_it_holds_nothing(server: ScriptedServer) -> None:
    worker, may_end = _worker(server), asyncio.Event()

    @worker.job("work")
    async def work() -> None:
        await may_end.wait()

    async with _beating(server) as beats, _serving(worker):
        stream = await server.stream()
        await stream.welcome(sees_idle_workers=True)
        await stream.send_jobs(a_job())
        await beats(3)
        while_busy = server.beaten_by[worker.worker_id]
        may_end.set()
        await stream.hear_outcome()
        await beats(3)
        once_idle = server.beaten_by[worker.worker_id]
        await beats(3)

    assert 2 <= while_busy
    # One may have been on its way while the job ended.
    assert while_busy + 1 <= once_idle <= while_busy + 2
    assert once_idle == server.beaten_by[worker.worker_id]


async def test_a_heartbeat_that_is_answered_after_the_workers_loop_has_closed_troubles_nobody(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    worker, may_stop = _worker(server), threading.Event()
    worker.add("work", _do_nothing)
    before = set(threading.enumerate())
    server.may_answer_heartbeats.clear()

    async def serve() -> None:
        async with _serving(worker):
            await asyncio.to_thread(may_stop.wait)

    in_a_loop_of_its_own = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    await (await server.stream()).welcome()
    await server.renewed.get()
    (beating,) = [thread for thread in set(threading.enumerate()) - before if thread.name == "quorra-heartbeat"]
    may_stop.set()
    await asyncio.wait_for(in_a_loop_of_its_own, SECONDS_MAX)
    was_beating = beating.is_alive()
    server.may_answer_heartbeats.set()
    await asyncio.to_thread(beating.join, SECONDS_MAX)

    assert (True, False) == (was_beating, beating.is_alive())
    assert [] == troubles


async def test_a_ping_of_the_server_is_answered(server: ScriptedServer) -> None:
    worker = _worker(server)
    worker.add("work", _do_nothing)
    async with _serving(worker):
        stream = await server.stream()
        await stream.welcome()
        await stream.say(ping=pb.Ping(nonce=7))
        answer = await stream.hear("ping")

    assert 7 == answer.nonce


async def test_no_message_is_larger_than_every_server_takes(server: ScriptedServer) -> None:
    """One that is too large would end this stream and every later one: it is kept until its receipt."""
    session = Session(lambda: open_aio_channel(server.address), (), pb.Hello, Deaf())
    talking = asyncio.create_task(session.run())
    stream = await server.stream()
    try:
        line = pb.Reports(logs=[pb.LogLine(message="x" * 4096)])
        for number in range(2_000):
            session.say(line)
            if number % 25 == 0:
                session.report(Success(lease_id=f"1.{number}", result=b"x" * 250_000))
        await session.close(SECONDS_MAX)
        said: list[pb.Reports] = []
        while sum(len(reports.succeeded) for reports in said) < 80:
            said.append(await stream.hear("reports"))
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)

    assert 2_000 == sum(len(reports.logs) for reports in said)
    assert 80 == len({entry.lease_id for reports in said for entry in reports.succeeded})
    assert max(reports.ByteSize() for reports in said) < MESSAGE_BYTES_MAX


@asynccontextmanager
async def _talking(server: ScriptedServer) -> AsyncIterator[tuple[Session, ScriptedStream]]:
    """Yield a session and its stream, which sends no receipts of its own."""
    session = Session(lambda: open_aio_channel(server.address), (), pb.Hello, Deaf())
    talking = asyncio.create_task(session.run())
    try:
        stream = await server.stream()
        stream.is_slow = True
        yield session, stream
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


async def _two_without_receipts(session: Session, stream: ScriptedStream) -> None:
    for lease_id in ("1.1", "1.2"):
        session.report(Success(lease_id=lease_id))
        assert lease_id == (await stream.hear_outcome()).lease_id


async def test_outcomes_wait_for_each_other_while_two_messages_have_no_receipt(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a busy worker sends few large messages; each costs both sides as much as a hundred outcomes."""
    monkeypatch.setattr("quorra_worker_sdk.session.HOLD_SECONDS_MAX", SECONDS_MAX)
    async with _talking(server) as (session, stream):
        await _two_without_receipts(session, stream)
        session.report(Success(lease_id="1.3"))
        # A turn of the loop, in which it would be sent.
        await asyncio.sleep(0)
        session.report(Success(lease_id="1.4"))
        await stream.say(receipts=pb.Receipts(sequence=1))
        together = await stream.hear("reports")

    assert ["1.3", "1.4"] == [entry.lease_id for entry in together.succeeded]


async def test_an_outcome_does_not_wait_long_for_a_receipt(server: ScriptedServer) -> None:
    async with _talking(server) as (session, stream):
        await _two_without_receipts(session, stream)
        session.report(Success(lease_id="1.3"))
        outcome = await stream.hear_outcome()

    assert "1.3" == outcome.lease_id


async def test_a_refused_failure_is_not_reported_again(server: ScriptedServer) -> None:
    """A success becomes a failure once; a lease that the server cannot read would be refused for ever."""
    worker = _worker(server)

    @worker.job("work")
    async def work() -> None: ...

    job = a_job()
    async with _serving(worker):
        stream = await server.stream()
        stream.refuses = {job.lease_id}
        await stream.welcome()
        await stream.send_jobs(job)
        succeeded, failed = await stream.hear_outcome(), await stream.hear_outcome()
        refused = pb.Refused(lease_id=job.lease_id, reason=pb.REFUSAL_REASON_INVALID, outcome="no lease of mine")
        await stream.say(receipts=pb.Receipts(sequence=1, refused=[refused]))
        await stream.send_jobs(a_job("unknown"))
        after = await stream.hear_outcome()

    assert isinstance(succeeded, pb.Succeeded)
    assert ("ResultRefused", True) == (failed.kind, failed.non_retryable)
    assert "not acceptable" in failed.error
    assert isinstance(after, pb.Released)
