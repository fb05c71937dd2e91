"""Requests that take longer than the server lets one take: a truthful answer, and a repeat that goes on."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from tests.support.locks import locked
from tests.support.processes import API_KEY, RunningServer, start_process, wait_until_ready
from tests.support.services import free_port

# The server itself, with less time for a response and for a purge than the two minutes and the twenty seconds it has.
IMPATIENT = """
import sys
from quorra_server.cli import main
from quorra_server.transports.rest import dead, queues, server
server.RESPONSE_SECONDS_MAX = 1
dead.PURGE_SECONDS_MAX = queues.PURGE_SECONDS_MAX = 0
sys.exit(main([]))
"""
PAGE_JOBS = 1_000


@contextlib.contextmanager
def _impatient(database_url: str) -> Iterator[tuple[RunningServer, httpx.Client]]:
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "QUORRA_ENV": "test",
        "DATABASE_URL": database_url,
        "QUORRA_API_KEY": API_KEY,
        "QUORRA_HTTP_ADDR": http,
        "QUORRA_GRPC_ADDR": grpc,
    }
    with start_process([sys.executable, "-c", IMPATIENT], settings) as running:
        server = RunningServer(
            running.process, running.log_path, f"http://{http}", grpc, API_KEY, database_url=database_url
        )
        wait_until_ready(server)
        with httpx.Client(base_url=server.http_url, headers=server.headers, timeout=20) as api:
            yield server, api


async def _dead_jobs(database_url: str, count: int) -> list[UUID]:
    """Record jobs that died, as a bulk of their own."""
    ids = [uuid4() for _ in range(count)]
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """
        INSERT INTO quorra.jobs (id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload)
        SELECT id, now(), now(), 0, 0, 3, 't', 'q', '{}' FROM unnest($1::uuid[]) AS id
        """,
        ids,
    )
    await connection.execute(
        """
        INSERT INTO quorra.outcomes
            (job_id, batch, ordinal, kind, status, ended_at, attempts, deliveries, generation, late, queue, worker)
        SELECT id, 1, ordinal, 'failed', 'dead', now(), 1, 1, 1, false, 'q', 'w'
        FROM unnest($1::uuid[]) WITH ORDINALITY AS dead (id, ordinal)
        """,
        ids,
    )
    await connection.close()
    return ids


@contextlib.asynccontextmanager
async def _row_locked(database_url: str, job_id: UUID) -> AsyncIterator[None]:
    """Let nobody else change how a job ended meanwhile."""
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("SELECT FROM quorra.outcomes WHERE job_id = $1 FOR UPDATE", job_id)
        yield
    await connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/v1/dead", {"before": "2999-01-01T00:00:00Z"}),
        ("POST", "/v1/jobs/retry", {"filter": {"status": "dead"}}),
    ],
)
async def test_a_request_past_its_time_is_503_that_says_that_a_repeat_goes_on(
    database_url: str, method: str, path: str, body: dict[str, Any]
) -> None:
    """It was "A bug of the server's", although part of it was done."""
    (job_id,) = await _dead_jobs(database_url, 1)
    with _impatient(database_url) as (server, api):
        async with _row_locked(database_url, job_id):
            reply = api.request(method, path, json=body)
        again = api.request(method, path, json=body)

        assert (503, "outcome_unknown") == (reply.status_code, reply.json()["code"])
        assert "Repeat it" in reply.json()["detail"]
        assert "1" == reply.headers["Retry-After"]
        assert "incident" not in server.log
    assert 1 == again.json().get("purged", again.json().get("changed"))


async def test_a_submission_past_its_time_is_503_too(database_url: str) -> None:
    """It does not go through Sanic, which would answer it; the connection was closed without a word."""
    with _impatient(database_url) as (server, api):
        async with locked(server, "quorra.jobs"):
            reply = api.post("/v1/jobs", json={"type": "t", "payload": {}})
        again = api.post("/v1/jobs", json={"type": "t", "payload": {}})

    assert (503, "outcome_unknown") == (reply.status_code, reply.json()["code"])
    assert 201 == again.status_code


async def test_a_purge_of_dead_jobs_past_its_time_says_how_many_went_and_that_there_are_more(database_url: str) -> None:
    await _dead_jobs(database_url, PAGE_JOBS + 500)
    body = {"before": "2999-01-01T00:00:00Z"}
    with _impatient(database_url) as (_, api):
        purges = [api.request("DELETE", "/v1/dead", json=body).json() for _ in range(3)]

    assert [{"purged": PAGE_JOBS, "more": True}, {"purged": 500, "more": True}, {"purged": 0}] == purges


def test_a_purge_of_a_queue_past_its_time_says_how_many_went_and_that_there_are_more(database_url: str) -> None:
    batch = {"jobs": [{"type": "t", "payload": {}, "queue": "q"}] * (PAGE_JOBS + 500)}
    with _impatient(database_url) as (_, api):
        api.post("/v1/jobs/batch", json=batch).raise_for_status()

        purges = [api.delete("/v1/queues/q/jobs").json() for _ in range(3)]

    assert [{"purged": PAGE_JOBS, "more": True}, {"purged": 500, "more": True}, {"purged": 0}] == purges
