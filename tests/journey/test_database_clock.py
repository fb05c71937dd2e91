"""The clock of PostgreSQL is stepped while everything runs: work may be late, and nothing is lost or doubled."""

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub
from quorra_server.storage.migrate import migrate

from tests.support.conversation import Conversation
from tests.support.faketime import faketime
from tests.support.processes import RunningServer, start_server, start_worker
from tests.support.rest import Rest
from tests.support.stepped_postgres import SteppedPostgres, stepped_postgres
from tests.support.waiting import eventually, eventually_sync

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(faketime() is None, reason="there is no libfaketime here to step a clock (Debian: faketime)"),
]

HOUR = 3600
LEASE_SECONDS = 30
AT_ONCE = {"kind": "fixed", "base_seconds": 0.001}
# Runs end once the file is there; so a clock is stepped while all of them run.
GATED = """
    import asyncio
    from datetime import timedelta
    from pathlib import Path
    from quorra_worker_sdk import Worker

    worker = Worker(slots=5, lease_ttl=timedelta(seconds=30))

    @worker.job("gated")
    async def gated(n: int) -> None:
        while not Path("go").exists():
            await asyncio.sleep(0.02)
"""
# How many jobs did not succeed exactly once, or were not charged exactly the runs that were started.
ODD_JOBS = """
SELECT count(*)
FROM quorra.jobs
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE kind = 'succeeded') AS successes,
        count(*) FILTER (WHERE started_at IS NOT NULL) AS runs,
        max(attempts) AS attempts
    FROM quorra.outcomes
    WHERE outcomes.job_id = jobs.id
) AS found
WHERE jobs.queue = $1 AND (found.successes <> 1 OR found.attempts <> found.runs)
"""
JOBS = "SELECT id::text FROM quorra.jobs WHERE queue = $1"
# What the counters of the only server have to say.
EVENTS = """
SELECT
    (SELECT count(*) FROM quorra.jobs WHERE queue = $1) AS jobs_created,
    count(*) FILTER (WHERE started_at IS NOT NULL) AS jobs_processed,
    count(*) FILTER (WHERE kind = 'expired' AND started_at IS NOT NULL) AS jobs_failed,
    count(*) FILTER (WHERE kind = 'expired') AS leases_expired
FROM quorra.outcomes
WHERE queue = $1
"""
BEATS_AGAIN = "SELECT beat_at <= clock_timestamp() FROM quorra.lives"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedPostgres]:
    library = faketime()
    assert library is not None
    with stepped_postgres(library, tmp_path_factory.mktemp("clock")) as running:
        asyncio.run(migrate(running.dsn))
        yield running


@pytest.fixture(scope="module")
def server(postgres: SteppedPostgres) -> Iterator[RunningServer]:
    with start_server(postgres.dsn) as running:
        yield running


@pytest.fixture(autouse=True)
def right_clock(postgres: SteppedPostgres) -> Iterator[None]:
    yield
    postgres.step(0)


@pytest.fixture
def rest(server: RunningServer) -> Rest:
    return Rest(server)


async def test_existing_sessions_and_new_ones_see_the_step(postgres: SteppedPostgres) -> None:
    """Else nothing here would be tested."""
    old = await asyncpg.connect(postgres.dsn)

    found = []
    for seconds in (0, HOUR, -HOUR):
        postgres.step(seconds)
        new = await asyncpg.connect(postgres.dsn)
        found.append([*await _seconds_wrong(old), *await _seconds_wrong(new)])
        await new.close()
    await old.close()

    assert [[0] * 4, [HOUR] * 4, [-HOUR] * 4] == found


async def test_jobs_whose_leases_a_step_ended_are_leased_again_and_late_reports_of_them_are_refused(
    postgres: SteppedPostgres, server: RunningServer, rest: Rest, queue_name: str
) -> None:
    ids = rest.submit_many(12, "job", queue_name, backoff=AT_ONCE)
    async with _worker(server, queue_name, "first") as first, _worker(server, queue_name, "second") as second:
        await first.grant(8)
        lost = [job.lease_id for job in await first.until_jobs(8)]
        await first.report(started=[pb.Started(lease_id=lease_id) for lease_id in lost[:5]])
        await asyncio.to_thread(rest.until_count, queue_name, "processing", 5)

        postgres.step(HOUR)
        await second.grant(12)
        await second.until_jobs(12)
        late = await first.report(succeeded=[pb.Succeeded(lease_id=lease_id, run_ms=1) for lease_id in lost])
        in_time = await _succeed(second)
        histories = [rest.history(job.id) for job in first.jobs]

    assert set(ids) == {job.id for job in second.jobs}
    assert {(lease_id, pb.REFUSAL_REASON_LEASE_LOST) for lease_id in lost} == {
        (refused.lease_id, refused.reason) for refused in late.refused
    }
    assert [] == list(in_time.refused)
    assert [["expired", "succeeded"]] * 8 == histories
    # Only those that had started are charged a run.
    assert [2] * 5 + [1] * 3 == [rest.job(job.id)["attempts"] for job in first.jobs]
    await _all_is_well(server, queue_name, ids)


async def test_a_report_after_a_step_ahead_is_accepted_and_late_while_nobody_has_put_its_job_back(
    postgres: SteppedPostgres, server: RunningServer, rest: Rest, queue_name: str
) -> None:
    ids = rest.submit_many(3, "job", queue_name)
    async with _worker(server, queue_name, "only") as worker:
        await worker.grant(3)
        await worker.until_jobs(3)

        async with _no_lease_is_put_back(postgres.dsn):
            postgres.step(HOUR)
            receipts = await _succeed(worker)

    attempts = [rest.http.get(f"/v1/jobs/{job_id}/history").json()["attempts"] for job_id in ids]
    assert [] == list(receipts.refused)
    assert [[("succeeded", True)]] * 3 == [[(each["outcome"], each["late"]) for each in of_job] for of_job in attempts]
    await _all_is_well(server, queue_name, ids)


def test_workers_whose_leases_a_step_ended_run_the_jobs_again(
    postgres: SteppedPostgres, server: RunningServer, rest: Rest, queue_name: str, tmp_path: Path
) -> None:
    ids = rest.submit_many(20, "gated", queue_name, backoff=AT_ONCE)
    with _two_workers(server, queue_name, tmp_path):
        rest.until_count(queue_name, "processing", 10)

        postgres.step(HOUR)
        eventually_sync(lambda: _counted(server, "leases_expired", queue_name) >= 10, "all leases are put back")
        # Workers have room again only because they have stopped what ran.
        rest.until_count(queue_name, "processing", 10)
        (tmp_path / "go").touch()
        rest.until_count(queue_name, "succeeded", 20)

    assert {1, 2} == {rest.job(job_id)["attempts"] for job_id in ids}
    asyncio.run(_all_is_well(server, queue_name, ids))


async def test_after_a_step_back_new_work_runs_at_once_and_what_waited_waits_on(
    postgres: SteppedPostgres, server: RunningServer, rest: Rest, queue_name: str
) -> None:
    """It was due at a moment that is to come once more; an operator can have it run now."""
    held = rest.submit_many(4, "job", queue_name)
    async with _worker(server, queue_name, "worker") as worker:
        await worker.grant(4)
        await worker.until_jobs(4)
        waiting = rest.submit_many(4, "job", queue_name)

        postgres.step(-HOUR)
        settled = await _succeed(worker)
        await worker.grant(20)
        new = rest.submit_many(4, "job", queue_name)
        ran_meanwhile = [job.id for job in await worker.until_jobs(8)]
        status_meanwhile = [rest.job(job_id)["status"] for job_id in waiting]
        for job_id in waiting:
            assert rest.http.post(f"/v1/jobs/{job_id}/retry").is_success
        await worker.until_jobs(12)
        await _succeed(worker)

    assert [] == list(settled.refused)
    assert [*held, *new] == ran_meanwhile
    assert ["pending"] * 4 == status_meanwhile
    assert [["succeeded"]] * 12 == [rest.history(job_id) for job_id in (*held, *waiting, *new)]
    await _all_is_well(server, queue_name, [*held, *waiting, *new])


async def test_a_silent_workers_job_comes_back_once_the_clock_is_past_its_lease_again(
    postgres: SteppedPostgres, server: RunningServer, rest: Rest, queue_name: str
) -> None:
    """After a step back that is later, by as much as the step."""
    (job_id,) = rest.submit_many(1, "job", queue_name, backoff=AT_ONCE)
    async with _worker(server, queue_name, "silent") as silent:
        await silent.grant(1)
        await silent.until_jobs(1)
        postgres.step(-HOUR)
    async with _worker(server, queue_name, "other") as other:
        await other.grant(2)
        (new,) = rest.submit_many(1, "job", queue_name)
        await other.until_jobs(1)
        await _succeed(other)
        held = rest.job(job_id)["status"]

        postgres.step(2 * LEASE_SECONDS)
        await other.until_jobs(2)
        await _succeed(other)

    assert "leased" == held
    assert [new, job_id] == [job.id for job in other.jobs]
    assert ["expired", "succeeded"] == rest.history(job_id)
    await _all_is_well(server, queue_name, [job_id, new])


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_submission_that_is_repeated_after_a_step_finds_its_first_try(
    postgres: SteppedPostgres, rest: Rest, queue_name: str, step: int
) -> None:
    """Also one that was merged for its unique key, with other work, into a job of before the step."""
    job = {"type": "job", "queue": queue_name, "payload": {}}
    unique = {**job, "unique_key": queue_name}
    submissions = [({**job, "id": str(uuid4())}, "first"), (job, "second"), (unique, "third")]
    before = [_submit(rest, body, key) for body, key in submissions]

    postgres.step(step)
    after = [_submit(rest, body, key) for body, key in submissions]
    merged = [_submit(rest, {**unique, "payload": {"other": "work"}}, "fourth") for _ in range(2)]

    assert before == after
    assert [before[2]] * 2 == merged
    assert 3 == rest.count(queue_name, "pending")


def test_a_clock_that_goes_back_and_comes_again_loses_and_doubles_nothing(
    postgres: SteppedPostgres, server: RunningServer, rest: Rest, queue_name: str, tmp_path: Path
) -> None:
    """Jobs are submitted all the while: before, between and after the steps."""
    with _two_workers(server, queue_name, tmp_path):
        with _submitting(rest, queue_name) as ids:
            rest.until_count(queue_name, "processing", 10)
            rest.until_count(queue_name, "pending", 20)

            postgres.step(-HOUR)
            (tmp_path / "go").touch()
            rest.until_count(queue_name, "succeeded", 50)
            waits_meanwhile = rest.count(queue_name, "pending")
            postgres.step(0)
            count = len(ids)
            eventually_sync(lambda: len(ids) > count + 50, "more are submitted")
        rest.until_count(queue_name, "succeeded", len(ids))

    assert waits_meanwhile > 0
    asyncio.run(_all_is_well(server, queue_name, ids))


async def test_after_a_step_back_the_beat_that_tells_how_far_the_database_came_goes_on(
    postgres: SteppedPostgres, server: RunningServer
) -> None:
    """What a failover may have lost is counted from it."""
    session = await asyncpg.connect(postgres.dsn)
    await eventually(lambda: session.fetchval("SELECT count(*) FROM quorra.lives"), "the first beat")

    postgres.step(-HOUR)
    await eventually(lambda: session.fetchval(BEATS_AGAIN), "the beat goes on")
    await session.close()


@contextlib.asynccontextmanager
async def _worker(server: RunningServer, queue: str, name: str) -> AsyncIterator[Conversation]:
    """Say hello as a worker; what it holds at the end stays leased."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        worker = Conversation(WorkerServiceStub(channel), server.metadata, queue)
        await worker.hello(worker_id=name, lease_ttl_seconds=LEASE_SECONDS)
        yield worker
        await worker.close()


async def _succeed(worker: Conversation) -> pb.Receipts:
    """Report a success of everything that a worker was ever sent."""
    return await worker.report(succeeded=[pb.Succeeded(lease_id=job.lease_id, run_ms=1) for job in worker.jobs])


@contextlib.asynccontextmanager
async def _no_lease_is_put_back(dsn: str) -> AsyncIterator[None]:
    """Lock all leases as a report does: whoever puts overdue ones back passes them by."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM quorra.leases FOR KEY SHARE")
            yield
    finally:
        await connection.close()


@contextlib.contextmanager
def _two_workers(server: RunningServer, queue: str, folder: Path) -> Iterator[None]:
    queues = {"QUORRA_WORKER_QUEUES": queue}
    with (
        start_worker(server, GATED, folder, environment=queues),
        start_worker(server, GATED, folder, environment=queues),
    ):
        yield


@contextlib.contextmanager
def _submitting(rest: Rest, queue: str) -> Iterator[list[str]]:
    """Submit a hundred jobs a second, and list the acknowledged ones; none may be refused."""
    ids: list[str] = []
    is_over = threading.Event()

    def submit() -> None:
        while not is_over.wait(0.05):
            ids.extend(rest.submit_many(5, "gated", queue, backoff=AT_ONCE))

    with ThreadPoolExecutor() as threads:
        submitting = threads.submit(submit)
        try:
            yield ids
        finally:
            is_over.set()
        submitting.result()


def _submit(rest: Rest, body: dict[str, Any], key: str) -> str:
    reply = rest.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"{body['queue']}-{key}"})
    assert reply.is_success, reply.text
    return str(reply.json()["id"])


async def _seconds_wrong(session: "asyncpg.Connection[Any]") -> list[int]:
    """Say by how much a session's two clocks are wrong."""
    clocks = await session.fetchrow(
        "SELECT extract(epoch FROM clock_timestamp())::float8, extract(epoch FROM statement_timestamp())::float8"
    )
    return [round(seconds - time.time()) for seconds in clocks]


async def _all_is_well(server: RunningServer, queue: str, ids: Sequence[str]) -> None:
    """Hold jobs, counts and counters against each other, and look for bugs in the server's log."""
    connection = await asyncpg.connect(server.database_url)
    jobs = {row["id"] for row in await connection.fetch(JOBS, queue)}
    odd_jobs = await connection.fetchval(ODD_JOBS, queue)
    events = dict(await connection.fetchrow(EVENTS, queue))
    await connection.close()

    assert set(ids) == jobs
    assert 0 == odd_jobs
    assert {"succeeded": len(ids)} == _counts(server, queue)
    assert "Traceback" not in server.log

    async def is_counted() -> bool:
        return events == {name: _counted(server, name, queue) for name in events}

    # A server counts a moment after the commit.
    await eventually(is_counted, f"the counters say {events}")


def _counts(server: RunningServer, queue: str) -> dict[str, int]:
    entries = Rest(server).http.get("/v1/queues").json()["queues"]
    return {entry["status"]: entry["count"] for entry in entries if entry["queue"] == queue}


def _counted(server: RunningServer, name: str, queue: str) -> int:
    text = Rest(server).http.get("/metrics").text
    found = re.search(rf'^quorra_{name}_total\{{queue="{queue}"\}} (\S+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0
