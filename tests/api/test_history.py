"""The history of a job that was leased very often: read a page at a time, the last leases first, in REST and gRPC."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import httpx
import pytest
from quorra_proto.v1 import quorra_pb2 as pb
from quorra_proto.v1.quorra_pb2_grpc import JobServiceStub

from tests.support.processes import RunningServer

DELIVERIES = 10_000
# Every tenth lease ended in an error.
ERRORS = [*range(10, DELIVERIES + 1, 10)]
PAGE = 200
ERRORS_SHOWN = 100


@pytest.fixture
async def job_id(shared_server: RunningServer, api: httpx.Client, queue_name: str) -> AsyncIterator[str]:
    """A job that was snoozed thousands of times, and failed now and then."""
    job = {"type": "t", "payload": {}, "queue": queue_name, "delay_seconds": 3_600}
    submitted: str = api.post("/v1/jobs", json=job).json()["id"]
    connection = await asyncpg.connect(shared_server.database_url)
    await connection.execute(
        """
        INSERT INTO quorra.outcomes (
            job_id, batch, deliveries, kind, error,
            ended_at, retry_at, ordinal, attempts, generation, late, queue, worker
        )
        SELECT
            $1, number, number,
            (CASE WHEN number % 10 = 0 THEN 'failed' ELSE 'snoozed' END)::quorra.outcome_kind,
            CASE WHEN number % 10 = 0 THEN 'error ' || number END,
            now(), now(), 1, 1, 1, false, 'q', 'w'
        FROM generate_series(1, $2::integer) AS number
        """,
        UUID(submitted),
        DELIVERIES,
    )
    yield submitted
    await connection.execute("DELETE FROM quorra.outcomes WHERE job_id = $1", UUID(submitted))
    await connection.close()


def _deliveries(history: dict[str, Any]) -> list[int]:
    return [attempt["delivery"] for attempt in history["attempts"]]


def test_a_history_is_the_last_leases_oldest_first(api: httpx.Client, job_id: str) -> None:
    history = api.get(f"/v1/jobs/{job_id}/history").json()

    assert [*range(DELIVERIES - PAGE + 1, DELIVERIES + 1)] == _deliveries(history)


def test_the_cursor_leads_to_the_leases_before(api: httpx.Client, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/history"
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(path, params={"limit": 400, **cursor}).json()
        seen = _deliveries(page) + seen
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    assert [*range(1, DELIVERIES + 1)] == seen


def test_a_short_history_has_no_cursor(api: httpx.Client, queue_name: str) -> None:
    job_id = api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue_name}).json()["id"]
    api.post(f"/v1/jobs/{job_id}/cancel")

    history = api.get(f"/v1/jobs/{job_id}/history").json()

    assert (["cancelled"], None) == ([entry["outcome"] for entry in history["attempts"]], history["next_cursor"])


def test_a_cursor_of_another_jobs_history_is_refused(api: httpx.Client, job_id: str, queue_name: str) -> None:
    other = api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue_name}).json()["id"]
    cursor = api.get(f"/v1/jobs/{job_id}/history").json()["next_cursor"]

    reply = api.get(f"/v1/jobs/{other}/history", params={"cursor": cursor})

    assert (422, "cursor") == (reply.status_code, reply.json()["field"])


def test_a_job_is_read_with_its_last_errors_oldest_first(api: httpx.Client, job_id: str) -> None:
    job = api.get(f"/v1/jobs/{job_id}").json()

    assert [f"error {number}" for number in ERRORS[-ERRORS_SHOWN:]] == [error["error"] for error in job["errors"]]


def test_grpc_has_the_same_bounds(shared_server: RunningServer, job_id: str) -> None:
    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        jobs = JobServiceStub(channel)
        history = jobs.ListHistory(pb.ListHistoryRequest(id=job_id), metadata=shared_server.metadata)
        job = jobs.GetJob(pb.GetJobRequest(id=job_id), metadata=shared_server.metadata)

    assert [*range(DELIVERIES - PAGE + 1, DELIVERIES + 1)] == [attempt.delivery for attempt in history.attempts]
    assert [f"error {number}" for number in ERRORS[-ERRORS_SHOWN:]] == [error.error for error in job.errors]


def test_the_dashboard_shows_the_last_leases(shared_server: RunningServer, job_id: str) -> None:
    with httpx.Client(base_url=shared_server.http_url) as browser:
        browser.post("/login", data={"key": shared_server.api_key})
        page = browser.get(f"/jobs/{job_id}").text

    assert PAGE == page.count('<td class="number">')
