"""What workers are told when PostgreSQL says no: what the table of SQLSTATEs says, of a server that meets each row."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import WorkerServiceStub

from tests.conftest import RUNNER, on_database
from tests.support.conversation import Conversation
from tests.support.poison import poisoned
from tests.support.processes import RunningServer, start_server, start_worker
from tests.support.rest import Rest
from tests.support.services import Service
from tests.support.waiting import eventually

# Raised for each outcome and for each renewal of a lease, while there is a code to raise. A sequence counts what is
# rolled back, too.
REFUSING = """
CREATE TABLE public.refusal (code text);
CREATE SEQUENCE public.refusals;
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    raised text := (SELECT code FROM public.refusal);
BEGIN
    IF raised IS NOT NULL THEN
        PERFORM nextval('public.refusals');
        RAISE EXCEPTION 'refused by the test' USING ERRCODE = raised;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON quorra.outcomes FOR EACH ROW EXECUTE FUNCTION public.refuse();
CREATE TRIGGER refuse BEFORE UPDATE OF expires_at ON quorra.leases FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
HELLO = """
    from quorra_worker_sdk import Worker

    worker = Worker()

    @worker.job("hello")
    async def hello() -> None:
        pass
"""
INCIDENT = r"A bug of the server's; report incident ([0-9a-f]{12})\."


@pytest.fixture(scope="module")
def server(postgres_for_all: Service, template: str) -> Iterator[RunningServer]:
    """A server of this file's own: what it is made to meet is not for others."""
    name = f"quorra_refusing{RUNNER}"
    url = on_database(postgres_for_all.url, name)

    async def prepare() -> None:
        admin = await asyncpg.connect(postgres_for_all.url)
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        await admin.close()
        connection = await asyncpg.connect(url)
        await connection.execute(REFUSING)
        await connection.close()

    asyncio.run(prepare())
    with start_server(url) as running:
        yield running


@pytest.fixture
async def stub(server: RunningServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        yield WorkerServiceStub(channel)


class PlainWorker:
    """A worker that holds one job."""

    def __init__(self, stub: Any, server: RunningServer, job: pb.Job) -> None:
        self._stub, self._metadata, self._lease_id = stub, server.metadata, job.lease_id

    async def ack(self) -> Any:
        return await self._stub.AckJob(pb.JobAck(lease_id=self._lease_id, success=True), metadata=self._metadata)

    async def beat(self) -> Any:
        beat = pb.HeartbeatRequest(worker_id="w", boot_id="b", lease_ids=[self._lease_id])
        return await self._stub.Heartbeat(beat, metadata=self._metadata)


@pytest.fixture
async def worker(server: RunningServer, stub: Any, queue_name: str) -> PlainWorker:
    Rest(server).submit("t", queue=queue_name)
    request = pb.LeaseRequest(queue=queue_name, worker_id="w", max_jobs=1, wait_seconds=10)
    (job,) = [job async for job in stub.LeaseJobs(request, metadata=server.metadata)]
    return PlainWorker(stub, server, job)


@asynccontextmanager
async def refused(server: RunningServer, worker: PlainWorker, code: str) -> AsyncIterator[asyncpg.Connection]:
    """Have PostgreSQL raise a code; afterwards, wait until the server is on speaking terms with it again."""
    connection = await asyncpg.connect(server.database_url)
    try:
        await connection.execute("ALTER SEQUENCE public.refusals RESTART")
        await connection.execute("INSERT INTO public.refusal VALUES ($1)", code)
        yield connection
    finally:
        await connection.execute("DELETE FROM public.refusal")
        await connection.close()
        await eventually(lambda: _is_heard(worker), "the server has connections again")


async def _is_heard(worker: PlainWorker) -> bool:
    with suppress(grpc.aio.AioRpcError):
        await worker.beat()
        return True
    return False


UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "storage_unavailable")
UNKNOWN = (grpc.StatusCode.UNAVAILABLE, "outcome_unknown")
INTERNAL = (grpc.StatusCode.INTERNAL, "internal")
# One or two codes of each meaning.
TOLD = {
    "40001": UNAVAILABLE,
    "57014": UNKNOWN,
    "53100": UNAVAILABLE,
    "57P03": UNAVAILABLE,
    "25006": UNAVAILABLE,
    "42P01": UNAVAILABLE,
    "23505": INTERNAL,  # without a row that has the key
    "22012": INTERNAL,
    "42501": INTERNAL,
}


@pytest.mark.parametrize("code", TOLD)
@pytest.mark.parametrize("call", [PlainWorker.ack, PlainWorker.beat], ids=["report", "heartbeat"])
async def test_a_worker_is_told_what_the_table_says(
    server: RunningServer, worker: PlainWorker, call: Any, code: str
) -> None:
    async with refused(server, worker, code):
        with pytest.raises(grpc.aio.AioRpcError) as met:
            await call(worker)

    assert TOLD[code] == (met.value.code(), dict(met.value.trailing_metadata() or ())["quorra-code"])


@pytest.mark.parametrize("call", [PlainWorker.ack, PlainWorker.beat], ids=["report", "heartbeat"])
async def test_a_conflict_is_told_after_five_tries(server: RunningServer, worker: PlainWorker, call: Any) -> None:
    async with refused(server, worker, "40P01") as connection:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(worker)
        tries = await connection.fetchval("SELECT last_value FROM public.refusals")

    assert 5 == tries


@pytest.mark.parametrize("code", ["22012", "42501"])
async def test_a_bug_is_told_with_the_incident_id_that_the_log_has_and_the_report_can_be_sent_again(
    server: RunningServer, worker: PlainWorker, code: str
) -> None:
    async with refused(server, worker, code):
        with pytest.raises(grpc.aio.AioRpcError) as met:
            await worker.ack()

    found = re.fullmatch(INCIDENT, met.value.details() or "")
    assert found is not None
    assert found[1] in server.log
    assert (await worker.ack()).acknowledged


# The fast way, where a message holds the reports of many.


@pytest.fixture
def stream(server: RunningServer, stub: Any, queue_name: str) -> Conversation:
    return Conversation(stub, server.metadata, queue_name)


async def _leased(server: RunningServer, stream: Conversation, count: int, **fields: Any) -> list[pb.Job]:
    Rest(server).submit_many(count, "t", stream.queue, **fields)
    await stream.hello()
    await stream.grant(count)
    return await stream.until_jobs(count)


def _successes(*jobs: pb.Job) -> list[pb.Succeeded]:
    return [pb.Succeeded(lease_id=job.lease_id, run_ms=1) for job in jobs]


async def test_a_report_that_meets_a_bug_is_refused_with_an_incident_id_and_its_neighbours_settle(
    server: RunningServer, stream: Conversation
) -> None:
    jobs = await _leased(server, stream, 3)

    async with poisoned(server.database_url, jobs[1].id):
        receipts = await stream.report(succeeded=_successes(*jobs))

    (refusal,) = receipts.refused
    found = re.fullmatch(INCIDENT, refusal.outcome)
    assert (jobs[1].lease_id, pb.REFUSAL_REASON_INVALID) == (refusal.lease_id, refusal.reason)
    assert found is not None
    assert 1 == server.log.count(found[1])
    assert ["succeeded", "succeeded"] == [Rest(server).job(job.id)["status"] for job in (jobs[0], jobs[2])]
    assert Rest(server).until(jobs[1].id, "processing"), "its lease runs out, and its start is charged then"
    await stream.close()


async def test_another_worker_has_its_receipt_as_ever(server: RunningServer, stream: Conversation) -> None:
    (culprit,) = await _leased(server, stream, 1)
    other = Conversation(stream.stub, stream.metadata, f"{stream.queue}-other")
    jobs = await _leased(server, other, 2)

    async with poisoned(server.database_url, culprit.id) as poison:
        reporting = asyncio.create_task(stream.report(succeeded=_successes(culprit)))
        await eventually(poison.tries, "the report has met the bug")
        receipts = await other.report(succeeded=_successes(*jobs))
        refused_receipts = await reporting

    assert ([], 1) == (list(receipts.refused), len(refused_receipts.refused))
    assert ["succeeded", "succeeded"] == [Rest(server).job(job.id)["status"] for job in jobs]
    await stream.close()
    await other.close()


async def test_the_stream_goes_on_after_a_refusal(server: RunningServer, stream: Conversation) -> None:
    culprit, good = await _leased(server, stream, 2)
    async with poisoned(server.database_url, culprit.id):
        await stream.report(succeeded=_successes(culprit))

        receipts = await stream.report(succeeded=_successes(good))

    assert (2, []) == (receipts.sequence, list(receipts.refused))
    assert "succeeded" == Rest(server).job(good.id)["status"]
    await stream.close()


async def test_a_refused_report_gives_its_place_in_a_bounded_queue_back_once(
    server: RunningServer, stream: Conversation
) -> None:
    """Also if the worker reports a failure instead, as the Python SDK does for a result that was refused."""
    Rest(server).submit_many(4, "t", stream.queue)
    await stream.hello(queues=[pb.QueueSubscription(name=stream.queue, slots=2)])
    await stream.grant(4)
    culprit, _ = await stream.until_jobs(2)
    async with poisoned(server.database_url, culprit.id, kind="succeeded"):
        await stream.report(succeeded=_successes(culprit))
        await stream.until_jobs(3)

        receipts = await stream.report(failed=[pb.Failed(lease_id=culprit.lease_id, error="x", non_retryable=True)])
        await stream.report()

    assert [] == list(receipts.refused)
    assert 3 == len(stream.jobs)
    await stream.close()


@pytest.mark.parametrize(("max_retries", "status"), [(3, "failed"), (0, "dead")])
async def test_the_job_of_a_refused_report_runs_again_when_its_lease_runs_out_and_is_dead_after_its_retries(
    server: RunningServer, stream: Conversation, max_retries: int, status: str
) -> None:
    (culprit,) = await _leased(
        server, stream, 1, max_retries=max_retries, backoff={"kind": "fixed", "base_seconds": 60}
    )
    async with poisoned(server.database_url, culprit.id, kind="succeeded"):
        await stream.report(succeeded=_successes(culprit))
    Rest(server).until(culprit.id, "processing")

    connection = await asyncpg.connect(server.database_url)
    await connection.execute("UPDATE quorra.leases SET expires_at = now() WHERE queue = $1", stream.queue)
    await connection.close()

    ended = Rest(server).until(culprit.id, status)
    assert (1, "lease expired") == (ended["attempts"], ended["last_error"])
    await stream.close()


async def test_a_python_worker_reports_a_failure_in_place_of_a_success_that_is_refused(
    server: RunningServer, queue_name: str, tmp_path: Path
) -> None:
    job_id = Rest(server).submit("hello", queue=queue_name)
    async with poisoned(server.database_url, job_id, kind="succeeded"):
        with start_worker(server, HELLO, tmp_path, arguments=("--queues", queue_name)):
            found = Rest(server).ended(job_id)

    assert ("dead", 1) == (found["status"], found["attempts"])
    assert re.fullmatch(f"the server did not take the outcome: {INCIDENT}", found["last_error"])
