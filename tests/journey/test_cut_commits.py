"""A connection is cut while PostgreSQL commits: nobody can know what became of it, and the caller is told just that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
from quorra_server.domain.errors import OutcomeUnknown
from quorra_server.storage.database import Executor, Pool, PoolSettings

from tests.faults.plans import new_id
from tests.support.locks import GATE_FUNCTION, GATE_KEY
from tests.support.processes import RunningServer, start_server
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

# Checked with the commit, after everything else of the transaction.
GATE = f"""
{GATE_FUNCTION}
CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON quorra.ready
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION quorra_test_gate();
"""
COMMITTING = f"""
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE_KEY} AND NOT granted
"""
INSERT = """
INSERT INTO quorra.ready (rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed,
    timed, queue, type)
VALUES (0, now(), $1, 0, 0, 0, 1, 3, false, false, false, 'default', 't')
"""


@dataclass(frozen=True, slots=True)
class Commits:
    """PostgreSQL behind a proxy, with commits that wait until they are let through."""

    proxy: Proxy
    address: str
    connection: asyncpg.Connection

    async def cut(self) -> None:
        """Cut all connections as soon as somebody commits."""
        await eventually(lambda: self.connection.fetch(COMMITTING), "somebody commits")
        self.proxy.cut()

    async def let_through(self) -> None:
        """Let commits through, the one that nobody hears of too."""
        await self.connection.execute(f"SELECT pg_advisory_unlock({GATE_KEY})")
        await eventually(self._all_are_over, "the commit is over")

    async def lose(self) -> None:
        """Let the commit that is under way fail, and those to come through."""
        await self.connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({COMMITTING}) AS committing")
        await eventually(self._all_are_over, "the session is over")
        await self.connection.execute(f"SELECT pg_advisory_unlock({GATE_KEY})")

    async def _all_are_over(self) -> bool:
        return not await self.connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND (wait_event_type = 'Lock' OR query ILIKE 'COMMIT%' AND state = 'active')"
        )

    async def jobs(self) -> int:
        """Count the jobs that wait in line."""
        count: int = await self.connection.fetchval("SELECT count(*) FROM quorra.ready")
        return count


@pytest.fixture
async def commits(database_url: str) -> AsyncIterator[Commits]:
    parts = urlsplit(database_url)
    connection = await asyncpg.connect(database_url)
    await connection.execute(GATE)
    await connection.execute(f"SELECT pg_advisory_lock({GATE_KEY})")
    async with Proxy(parts.hostname or "", parts.port or 5432) as proxy:
        address = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{proxy.address}"))
        yield Commits(proxy, address, connection)
    await connection.close()


@asynccontextmanager
async def _opened_pool(address: str) -> AsyncIterator[Pool]:
    pool = Pool(PoolSettings(address, 2, acquire_seconds=5, statement_seconds=20))
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def _submitting(commits: Commits) -> AsyncIterator[httpx.AsyncClient]:
    with ExitStack() as stack:
        # In a thread: the proxy that it needs runs here.
        server: RunningServer = await asyncio.to_thread(stack.enter_context, start_server(commits.address))
        async with httpx.AsyncClient(base_url=server.http_url, headers=server.headers, timeout=20) as http:
            yield http


async def _submit(http: httpx.AsyncClient, *, id: str | None = None, key: str | None = None) -> httpx.Response:
    job: dict[str, Any] = {"type": "t", "payload": {}, **({"id": id} if id else {})}
    return await http.post("/v1/jobs", json=job, headers={"Idempotency-Key": key} if key else {})


async def _repeat(http: httpx.AsyncClient, **named: str | None) -> httpx.Response:
    """Repeat as the answer says: its connections were cut as well, so the server may ask for a moment more."""

    async def repeat() -> httpx.Response | None:
        answer = await _submit(http, **named)
        return None if answer.status_code == 503 else answer

    answer = await eventually(repeat, "the repeat is answered")
    assert answer is not None
    return answer


async def test_a_transaction_that_is_cut_while_it_commits_is_unknown_to_its_caller(commits: Commits) -> None:
    async def work(transaction: Executor) -> None:
        await transaction.fetch(INSERT, new_id())

    async with _opened_pool(commits.address) as pool:
        running = asyncio.create_task(pool.run_transaction(work))
        await commits.cut()

        with pytest.raises(OutcomeUnknown):
            await running

    await commits.let_through()
    assert 1 == await commits.jobs()


async def test_a_statement_that_is_cut_while_it_commits_is_unknown_to_its_caller(commits: Commits) -> None:
    async with _opened_pool(commits.address) as pool:
        running = asyncio.create_task(pool.fetch(INSERT, new_id()))
        await commits.cut()

        with pytest.raises(OutcomeUnknown):
            await running

    await commits.let_through()
    assert 1 == await commits.jobs()


NAMED = {"id": {"id": new_id(), "key": None}, "key": {"id": None, "key": "order-1"}}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
async def test_repeating_a_submission_whose_commit_was_cut_and_succeeded_finds_its_job(
    commits: Commits, named: dict[str, str | None]
) -> None:
    async with _submitting(commits) as http:
        submitting = asyncio.create_task(_submit(http, **named))
        await commits.cut()
        first = await submitting
        await commits.let_through()

        again = await _repeat(http, **named)

    assert (503, "outcome_unknown") == (first.status_code, first.json()["code"])
    assert (200, True) == (again.status_code, again.json()["existing"])
    assert 1 == await commits.jobs()


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
async def test_repeating_a_submission_whose_commit_was_cut_and_lost_makes_its_job(
    commits: Commits, named: dict[str, str | None]
) -> None:
    async with _submitting(commits) as http:
        submitting = asyncio.create_task(_submit(http, **named))
        await commits.cut()
        first = await submitting
        await commits.lose()

        again = await _repeat(http, **named)

    assert (503, "outcome_unknown") == (first.status_code, first.json()["code"])
    assert 201 == again.status_code
    assert 1 == await commits.jobs()


async def test_a_submission_without_a_name_that_was_cut_is_told_to_be_unknown_and_how_to_repeat(
    commits: Commits,
) -> None:
    async with _submitting(commits) as http:
        submitting = asyncio.create_task(_submit(http))
        await commits.cut()

        answer = await submitting

    assert (503, "outcome_unknown") == (answer.status_code, answer.json()["code"])
    assert "with the same id or Idempotency-Key" in answer.json()["detail"]
    assert "Retry-After" in answer.headers
