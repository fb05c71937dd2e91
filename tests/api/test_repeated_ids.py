"""One id more than once: in a batch, in the lines of an import, from two callers at once."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub

from tests.support.processes import NO_TLS, RunningServer
from tests.support.waiting import eventually

NDJSON = {"Content-Type": "application/x-ndjson"}
BLOCKED = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@pytest.fixture
def job(queue_name: str) -> dict[str, Any]:
    """A job with an id of the caller's."""
    return {"type": "t", "payload": {"n": 1}, "queue": queue_name, "id": str(uuid4())}


@pytest.fixture
def other(job: dict[str, Any]) -> dict[str, Any]:
    """Other work with the same id."""
    return {**job, "payload": {"n": 2}}


def _batch(api: httpx.Client, *jobs: dict[str, Any]) -> httpx.Response:
    return api.post("/v1/jobs/batch", json={"jobs": jobs})


def _import(api: httpx.Client, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    reply = api.post("/v1/jobs/batch", content="\n".join(map(json.dumps, jobs)), headers=NDJSON)
    return [json.loads(line) for line in reply.text.splitlines()]


def _is_free(api: httpx.Client, unique_key: str) -> bool:
    """Say whether a new job gets the key."""
    return 201 == api.post("/v1/jobs", json={"type": "t", "payload": {}, "unique_key": unique_key}).status_code


def test_a_batch_with_one_id_for_two_works_is_a_409_and_stores_nothing(
    api: httpx.Client, job: dict[str, Any], other: dict[str, Any]
) -> None:
    """The second payload was lost, and answered as stored."""
    reply = _batch(api, job, other)

    assert (409, "key_reused", "jobs[1].id") == (reply.status_code, reply.json()["code"], reply.json()["field"])
    assert 404 == api.get(f"/v1/jobs/{job['id']}").status_code


def test_grpc_refuses_such_a_batch_too(shared_server: RunningServer, api: httpx.Client) -> None:
    job_id = str(uuid4())
    specs = [pb.JobSpec(id=job_id, type=kind, payload=b"{}") for kind in ("one", "another")]

    with grpc.insecure_channel(shared_server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        JobServiceStub(channel).SubmitJobs(pb.SubmitJobsRequest(jobs=specs), metadata=shared_server.metadata)

    error: Any = caught.value
    problem = json.loads(dict(error.trailing_metadata())["quorra-problem-bin"])
    assert grpc.StatusCode.FAILED_PRECONDITION == error.code()
    assert ("key_reused", "jobs[1].id") == (problem["code"], problem["field"])
    assert 404 == api.get(f"/v1/jobs/{job_id}").status_code


def test_the_same_work_twice_in_a_batch_is_one_job(api: httpx.Client, job: dict[str, Any]) -> None:
    reply = _batch(api, job, job)

    answers = [(answer["id"], answer.get("existing", False)) for answer in reply.json()["jobs"]]
    assert (201, [(job["id"], False), (job["id"], True)]) == (reply.status_code, answers)
    assert 1 == api.get(f"/v1/queues/{job['queue']}").json()["counts"]["pending"]


def test_of_two_lines_with_one_id_for_two_works_the_second_is_refused_alone(
    api: httpx.Client, job: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = _import(api, job, other)

    assert (job["id"], "key_reused") == (first["id"], second["error"]["code"])
    assert {"n": 1} == api.get(f"/v1/jobs/{job['id']}").json()["payload"]


def test_keys_of_a_batch_that_is_refused_are_free_afterwards(
    api: httpx.Client, job: dict[str, Any], other: dict[str, Any], queue_name: str
) -> None:
    """The first one's key was claimed for a job that was never stored, and nobody could ever have it."""
    api.post("/v1/jobs", json={**job, "id": str(uuid4()), "unique_key": f"held-{queue_name}"})

    _batch(api, {**job, "unique_key": f"free-{queue_name}"}, {**other, "unique_key": f"held-{queue_name}"})

    assert _is_free(api, f"free-{queue_name}")


def test_a_repeat_in_a_batch_claims_no_key(api: httpx.Client, job: dict[str, Any], queue_name: str) -> None:
    """The job of the first one has no key, and so would never free it."""
    _batch(api, job, {**job, "unique_key": f"key-{queue_name}"})

    assert _is_free(api, f"key-{queue_name}")


@pytest.mark.parametrize(("payload", "late"), [({"n": 1}, 200), ({"n": 2}, 409)])
def test_of_two_callers_with_one_id_at_once_one_is_first_and_the_other_is_told(
    api: httpx.Client, job: dict[str, Any], payload: dict[str, int], late: int
) -> None:
    """Callers that submit at the same time share statements, as far as their ids are the server's."""
    for _ in range(8):
        one = {**job, "id": str(uuid4())}
        both = [one, {**one, "payload": payload}]
        strangers = [{"type": "t", "payload": {}, "queue": job["queue"]}] * 6
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda body: api.post("/v1/jobs", json=body), [*both, *strangers]))

        statuses = [reply.status_code for reply in replies]
        assert {201, late} == set(statuses[:2])
        assert [201] * 6 == statuses[2:]


async def test_whoever_comes_second_with_an_id_this_moment_claims_no_key(
    shared_server: RunningServer, job: dict[str, Any], queue_name: str
) -> None:
    """The job of the first one has no key, and so would never free it."""
    first = await asyncpg.connect(shared_server.database_url)
    second = {**job, "payload": {}, "unique_key": f"key-{queue_name}"}
    headers = {"X-API-Key": shared_server.api_key}
    async with httpx.AsyncClient(base_url=shared_server.http_url, headers=headers, verify=NO_TLS) as client:
        async with first.transaction():
            await first.execute("SELECT quorra.enqueue('t', '{}', queue => $1, id => $2)", queue_name, job["id"])
            submission = asyncio.create_task(client.post("/v1/jobs", json=second))
            await eventually(lambda: first.fetch(BLOCKED), "the second one waits for the first")
        reply = await submission
        new = await client.post("/v1/jobs", json={**second, "id": str(uuid4())})
    await first.close()

    assert (200, True) == (reply.status_code, reply.json()["existing"])
    assert 201 == new.status_code
