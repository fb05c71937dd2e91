"""Work and outcome in one commit, end to end: real server, real workers, and SQL of the user's own."""

import re
import time
from pathlib import Path

import grpc
import psycopg
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.support.processes import RunningServer, start_worker
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

# What people call prompt: the poll interval of one second, and a second for the machine.
PROMPT_SECONDS = 2.0

MODULE = """
    import asyncio, os, time
    from datetime import timedelta
    from pathlib import Path
    from typing import Any

    import asyncpg, psycopg
    from quorra_worker_sdk import Context, Worker

    URL = os.environ["DATABASE_OF_THE_TEST"]
    EFFECT = "INSERT INTO effects (job_id, attempt) VALUES ('{}', {})"

    worker = Worker(queues={"default": 1}, lease_ttl=timedelta(seconds=10))

    @worker.job("plain")
    async def plain() -> str:
        return "done"

    @worker.job("pay")
    async def pay(ctx: Context[Any], then: str = "") -> None:
        connection = await asyncpg.connect(URL)
        async with ctx.transaction(connection) as run:
            await connection.execute(EFFECT.format(ctx.job.id, ctx.job.attempt))
            if then == "fail before" and ctx.job.attempt == 1:
                raise ValueError("before the commit")
            run.result = {"paid": ctx.job.attempt}
        await connection.close()
        if then == "fail after":
            raise ValueError("after the commit")

    @worker.job("pay_in_thread", timeout=timedelta(seconds=0.5))
    def pay_in_thread(ctx: Context[Any]) -> None:
        with psycopg.connect(URL) as connection, ctx.transaction(connection):
            connection.execute(EFFECT.format(ctx.job.id, ctx.job.attempt))
            if ctx.job.attempt == 1:
                while not ctx.cancelled():
                    time.sleep(0.02)

    @worker.job("hangs")
    async def hangs(ctx: Context[Any]) -> None:
        connection = await asyncpg.connect(URL)
        async with ctx.transaction(connection):
            await connection.execute(EFFECT.format(ctx.job.id, ctx.job.attempt))
            Path("hangs").touch()
            await asyncio.sleep(600)
"""


@pytest.fixture
def rest(server: RunningServer) -> Rest:
    with psycopg.connect(server.database_url) as connection:
        connection.execute("CREATE TABLE effects (job_id uuid, attempt integer)")
    return Rest(server)


def effects(server: RunningServer) -> list[tuple[str, int]]:
    with psycopg.connect(server.database_url) as connection:
        return [(str(job_id), attempt) for job_id, attempt in connection.execute("SELECT job_id, attempt FROM effects")]


def stale_acks(rest: Rest) -> float:
    found = re.search(r"^quorra_stale_acks_total (\S+)", rest.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_what_plain_sql_does_is_in_the_metrics_once(server: RunningServer, rest: Rest) -> None:
    rest.submit("t", queue="sql", max_retries=3)
    with (
        psycopg.connect(server.database_url, autocommit=True) as connection,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        for _ in range(3):
            connection.execute("SELECT quorra.enqueue('t', '{}', queue => 'sql')")
        wish = pb.LeaseRequest(worker_id="w", queue="sql", max_jobs=10, wait_seconds=5)
        first, second, third, fourth = WorkerServiceStub(channel).LeaseJobs(wish, metadata=server.metadata)
        connection.execute("SELECT quorra.complete(%s, %s)", (first.id, first.lease_id))
        connection.execute("SELECT quorra.fail(%s, %s, 'again')", (second.id, second.lease_id))
        connection.execute("SELECT quorra.fail(%s, %s, 'never', non_retryable => true)", (third.id, third.lease_id))
        ack = pb.JobAck(job_id=fourth.id, lease_id=fourth.lease_id)
        assert WorkerServiceStub(channel).AckJob(ack, metadata=server.metadata).acknowledged
        # Rolled back, and so it never was.
        with pytest.raises(psycopg.errors.Error):
            connection.execute(
                "SELECT quorra.enqueue('t', '{}', queue => 'sql'), quorra.complete(%s, %s)", (first.id, first.lease_id)
            )

    wanted = {"created": 4, "leased": 4, "processed": 4, "failed": 2, "dead": 1}
    eventually_sync(lambda: wanted == {name: _counted(rest, name) for name in wanted}, "everything is counted once")
    assert 1 == rest.count("sql", "dead")


def _counted(rest: Rest, name: str) -> float:
    text = rest.http.get("/metrics").text
    found = re.search(rf'^quorra_jobs_{name}_total{{queue="sql"}} (\S+)', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_job_from_plain_sql_is_run_promptly(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    environment = {"DATABASE_OF_THE_TEST": server.database_url}
    with (
        start_worker(server, MODULE, tmp_path, environment=environment),
        psycopg.connect(server.database_url, autocommit=True) as connection,
    ):
        rest.ended(rest.submit("plain"))
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            row = connection.execute("SELECT (quorra.enqueue('plain', '{}')).id").fetchone()
            assert row is not None
            assert "done" == rest.ended(str(row[0]))["result"]
            seconds.append(time.monotonic() - began)

    assert max(seconds) < PROMPT_SECONDS


def test_a_run_that_ends_in_its_own_transaction_is_reported_quietly_and_frees_its_slot(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    environment = {"DATABASE_OF_THE_TEST": server.database_url}
    with start_worker(server, MODULE, tmp_path, environment=environment) as worker:
        ids = [rest.submit("pay") for _ in range(5)]
        ids.append(rest.submit("pay", {"then": "fail after"}))
        ended = [rest.ended(job_id) for job_id in ids]
        assert 0 == worker.terminate()
        log = worker.log

    assert [("succeeded", {"paid": 1})] * 6 == [(job["status"], job["result"]) for job in ended]
    assert sorted((job_id, 1) for job_id in ids) == sorted(effects(server))
    assert "refused" not in log
    assert "failed after its success was committed" in log
    assert 0 == stale_acks(rest)


def test_an_attempt_that_fails_before_the_commit_leaves_nothing(
    server: RunningServer, rest: Rest, tmp_path: Path
) -> None:
    environment = {"DATABASE_OF_THE_TEST": server.database_url}
    with start_worker(server, MODULE, tmp_path, environment=environment):
        soon = {"kind": "fixed", "base_seconds": 0.001}
        failing = rest.submit("pay", {"then": "fail before"}, backoff=soon)
        slow = rest.submit("pay_in_thread", backoff=soon)
        ended = [rest.ended(job_id) for job_id in (failing, slow)]

    assert [("succeeded", 2)] * 2 == [(job["status"], job["attempts"]) for job in ended]
    assert sorted([(failing, 2), (slow, 2)]) == sorted(effects(server))


def test_a_cancel_in_the_middle_rolls_the_work_back(server: RunningServer, rest: Rest, tmp_path: Path) -> None:
    environment = {"DATABASE_OF_THE_TEST": server.database_url}
    with start_worker(server, MODULE, tmp_path, environment=environment) as worker:
        job_id = rest.submit("hangs")
        rest.until(job_id, "processing")
        rest.http.post(f"/v1/jobs/{job_id}/cancel")
        assert 0 == worker.terminate()

    assert "cancelled" == rest.job(job_id)["status"]
    assert [] == effects(server)
