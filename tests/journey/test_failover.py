"""A standby is promoted: servers follow it, never write to the old primary, and say what may be lost."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub
from quorra_server.domain.errors import OutcomeUnknown
from quorra_server.storage.database import Pool, PoolSettings
from quorra_server.storage.migrate import migrate

from tests.support.pair import replicated_postgres
from tests.support.processes import RunningServer, start_server
from tests.support.rest import Rest
from tests.support.services import own_postgres
from tests.support.waiting import eventually, eventually_sync

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE $1"
END_ALL_WAITS = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_frozen_primary_is_left_and_not_written_to_when_it_comes_back(tmp_path: Path) -> None:
    """With a synchronous standby nothing that was acknowledged is lost."""
    with replicated_postgres(tmp_path, is_synchronous=True) as pair:
        asyncio.run(migrate(pair.url))
        with start_server(pair.url) as server:
            rest = Rest(server)
            before = rest.submit_many(50, "job")

            pair.primary.freeze()
            asyncio.run(pair.promote())
            after = _submit_again_and_again(server)
            pair.standby.thaw()
            later = [rest.submit("job") for _ in range(20)]
            found = eventually_sync(partial(_failovers, rest), "it is reported")

            kept = {job for job in (*before, after, *later) if rest.http.get(f"/v1/jobs/{job}").is_success}
            on_the_old = asyncio.run(_jobs(pair.standby.dsn))

    assert {*before, after, *later} == kept
    assert set(before) == on_the_old
    assert [(2, 0, 0)] == [(entry["timeline"], entry["lost_jobs"], entry["lost_outcomes"]) for entry in found]


def test_what_a_standby_that_was_behind_has_lost_is_told_by_id(tmp_path: Path) -> None:
    with replicated_postgres(tmp_path, is_synchronous=False) as pair:
        asyncio.run(migrate(pair.url))
        with start_server(pair.url) as server:
            rest = Rest(server)
            before = rest.submit_many(5, "job")
            asyncio.run(pair.cut_off())
            lost = [*rest.submit_many(7, "job"), rest.submit("job")]

            pair.primary.kill()
            asyncio.run(pair.promote())
            after = _submit_again_and_again(server)
            found = eventually_sync(partial(_failovers, rest), "it is reported")
            missing = {job for job in (*before, *lost, after) if rest.http.get(f"/v1/jobs/{job}").status_code == 404}
            metrics = rest.http.get("/metrics").text
            log = server.log

    assert set(lost) == missing
    assert 1 == len(found)
    assert (8, set(lost)) == (found[0]["lost_jobs"], set(found[0]["job_ids"]))
    assert found[0]["lost_from"] < found[0]["lost_until"]
    assert "quorra_lost_jobs_total 8.0" in metrics
    assert "acknowledged_jobs_lost" in log


def test_of_two_primaries_a_server_that_starts_takes_the_promoted_one(tmp_path: Path) -> None:
    """The old primary is the first host of the address, alive, and takes writes."""
    with replicated_postgres(tmp_path, is_synchronous=False) as pair:
        asyncio.run(migrate(pair.url))
        asyncio.run(pair.promote())

        with start_server(pair.url) as server:
            job = Rest(server).submit("job")
            on_the_old, on_the_new = asyncio.run(_jobs(pair.standby.dsn)), asyncio.run(_jobs(pair.primary.dsn))

    assert (set(), {job}) == (on_the_old, on_the_new)


def test_the_old_primary_is_not_written_to_although_it_is_the_only_one_left(tmp_path: Path) -> None:
    """What it took would be lost as soon as the promoted one is back."""
    with replicated_postgres(tmp_path, is_synchronous=False) as pair:
        asyncio.run(migrate(pair.url))
        with start_server(pair.url) as server:
            rest = Rest(server)
            before = rest.submit("job")
            asyncio.run(pair.promote())
            eventually_sync(partial(_failovers, rest), "the server has followed")

            pair.primary.kill()
            body = {"type": "job", "payload": {}}
            refused = [rest.http.post("/v1/jobs", json=body, timeout=20).status_code for _ in range(10)]
            on_the_old = asyncio.run(_jobs(pair.standby.dsn))

    assert [503] * 10 == refused
    assert {before} == on_the_old


def test_a_promotion_that_no_server_saw_is_reported_by_the_next_one_to_start(tmp_path: Path) -> None:
    with replicated_postgres(tmp_path, is_synchronous=False) as pair:
        asyncio.run(migrate(pair.url))
        with start_server(pair.url) as server:
            eventually_sync(lambda: asyncio.run(_lives(pair.primary.dsn)), "the first life is written down")
            eventually_sync(lambda: asyncio.run(_lives(pair.standby.dsn)), "and so on the standby")
            server.terminate()
        asyncio.run(pair.promote())

        with start_server(pair.url) as server:
            rest = Rest(server)
            found = eventually_sync(partial(_failovers, rest), "it is reported")

    assert [(2, 0)] == [(entry["timeline"], entry["lost_jobs"]) for entry in found]
    assert found[0]["lost_from"] is not None


async def test_a_commit_that_no_standby_confirmed_is_not_reported_as_done() -> None:
    """Ending the wait for a dead standby makes PostgreSQL answer the commit as if nothing had happened."""
    # Named from the start: a running PostgreSQL takes the name up at a moment that nobody can see.
    settings = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
    with own_postgres(settings) as postgres:
        await _end_waits_for_nobody(postgres.dsn)


async def _end_waits_for_nobody(dsn: str) -> None:
    pool = Pool(PoolSettings(f"{dsn}?synchronous_commit=on", 1, acquire_seconds=5, statement_seconds=20))
    await pool.open()
    operator = await asyncpg.connect(dsn)
    await operator.execute("CREATE TABLE notes (text text)")

    commits: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: pool.fetch("INSERT INTO notes VALUES ('a statement')"),
        lambda: pool.run_transaction(lambda executor: executor.fetch("INSERT INTO notes VALUES ('a transaction')")),
    ]
    for commit in commits:
        committing = asyncio.create_task(commit())
        await eventually(lambda: operator.fetchval(END_ALL_WAITS), "the commit waits for the standby")
        with pytest.raises(OutcomeUnknown):
            await committing

    assert 2 == await operator.fetchval("SELECT count(*) FROM notes")
    await operator.close()
    await pool.close()


def test_a_repeated_submission_is_answered_once_a_standby_has_the_first_one(tmp_path: Path) -> None:
    """The first one's wait was ended, so that its job can be seen on the primary; it may be nowhere else."""
    job_id = str(uuid4())
    body = {"id": job_id, "type": "job", "payload": {}}
    with replicated_postgres(tmp_path, is_synchronous=True) as pair, ThreadPoolExecutor() as threads:
        asyncio.run(migrate(pair.url))
        with start_server(pair.url) as server:
            post = partial(httpx.post, f"{server.http_url}/v1/jobs", json=body, headers=server.headers, timeout=60)
            pair.standby.freeze()
            first = threads.submit(post)
            asyncio.run(_end_waits_until_it_is_seen(pair.primary.dsn, job_id))

            again = threads.submit(post)
            asyncio.run(_until_waiting(pair.primary.dsn, "COMMIT%"))
            was_answered = again.done()
            pair.standby.thaw()
            answer = again.result()

    assert (503, "outcome_unknown") == (first.result().status_code, first.result().json()["code"])
    assert not was_answered
    assert (200, True) == (answer.status_code, answer.json()["existing"])


def test_a_repeated_report_is_answered_once_a_standby_has_the_first_one(tmp_path: Path) -> None:
    with replicated_postgres(tmp_path, is_synchronous=True) as pair, ThreadPoolExecutor() as threads:
        asyncio.run(migrate(pair.url))
        with start_server(pair.url) as server, grpc.insecure_channel(server.grpc_address) as channel:
            Rest(server).submit("job")
            stub = WorkerServiceStub(channel)
            (job,) = stub.LeaseJobs(pb.LeaseRequest(worker_id="w", max_jobs=1), metadata=server.metadata)
            ack = partial(stub.AckJob, pb.JobAck(lease_id=job.lease_id), metadata=server.metadata, timeout=60)
            pair.standby.freeze()
            first = threads.submit(ack)
            asyncio.run(_end_waits_until_it_is_seen(pair.primary.dsn, job.id, "outcomes"))

            again = threads.submit(ack)
            asyncio.run(_until_waiting(pair.primary.dsn, "%pg_logical_emit_message%"))
            was_answered = again.done()
            pair.standby.thaw()

            assert again.result().acknowledged

    assert isinstance(first.exception(), grpc.RpcError)
    assert not was_answered


def test_a_repeated_enqueue_is_answered_once_a_standby_has_the_first_one(tmp_path: Path) -> None:
    job_id = str(uuid4())
    with replicated_postgres(tmp_path, is_synchronous=True) as pair, ThreadPoolExecutor() as threads:
        asyncio.run(migrate(pair.url))
        enqueue = partial(_enqueue, pair.primary.dsn, job_id)
        pair.standby.freeze()
        first = threads.submit(enqueue)
        asyncio.run(_end_waits_until_it_is_seen(pair.primary.dsn, job_id))

        again = threads.submit(enqueue)
        asyncio.run(_until_waiting(pair.primary.dsn, "%quorra.enqueue%"))
        was_answered = again.done()
        pair.standby.thaw()

        assert (False, True) == (first.result(), again.result())

    assert not was_answered


async def _end_waits_until_it_is_seen(dsn: str, job_id: str, table: str = "jobs") -> None:
    """End every wait for the standby until a row of a job can be seen."""
    connection = await asyncpg.connect(dsn)
    column = "id" if table == "jobs" else "job_id"

    async def look() -> bool:
        await connection.execute(END_ALL_WAITS)
        seen = f"SELECT EXISTS (SELECT FROM quorra.{table} WHERE {column} = $1)"
        return bool(await connection.fetchval(seen, UUID(job_id)))

    await eventually(look, "its row can be seen")
    await connection.close()


async def _until_waiting(dsn: str, query: str) -> None:
    """Wait until a commit waits for the standby."""
    connection = await asyncpg.connect(dsn)
    await eventually(lambda: connection.fetchval(WAITING, query), "the repetition waits for the standby")
    await connection.close()


def _failovers(rest: Rest) -> list[dict[str, Any]]:
    """List what is reported; connections are cut while a server follows, so that reads may be refused until then."""
    reply = rest.http.get("/v1/failovers")
    return list(reply.json()["failovers"]) if reply.is_success else []


def _submit_again_and_again(server: RunningServer) -> str:
    """Submit as the retry rule says, and return the job."""

    def submit() -> str:
        reply = httpx.post(
            f"{server.http_url}/v1/jobs", json={"type": "job", "payload": {}}, headers=server.headers, timeout=20
        )
        return str(reply.json()["id"]) if reply.is_success else ""

    return eventually_sync(submit, "writes are back", timeout=10)


def _enqueue(dsn: str, job_id: str) -> bool:
    """Submit a job by SQL, in a transaction that does nothing else; say whether it existed."""

    async def enqueue() -> bool:
        connection = await asyncpg.connect(dsn)
        try:
            found = await connection.fetchval("SELECT (quorra.enqueue('job', '{}', id => $1)).existing", UUID(job_id))
            return bool(found)
        finally:
            await connection.close()

    return asyncio.run(enqueue())


async def _jobs(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return {str(row["id"]) for row in await connection.fetch("SELECT id FROM quorra.jobs")}
    finally:
        await connection.close()


async def _lives(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        found: int = await connection.fetchval("SELECT count(*) FROM quorra.lives")
        return found
    finally:
        await connection.close()
