"""The statements themselves: each fits the schema, says its parameters, and moves jobs only as the table allows."""

import re

import asyncpg
import pytest
from quorra_server.domain.states import TRANSITIONS, Event, JobStatus
from quorra_server.storage.database import SESSION, array_text
from quorra_server.storage.statements import MIGRATIONS_FOLDER, SQL_FOLDER, sql_files

from tests.support.queue_spec import PRINCIPAL, QueueSpec

STATEMENTS = dict(sql_files(SQL_FOLDER))
TRANSITION = re.compile(r"^-- transition: *(.*?) *-> *(.*?) *$", re.MULTILINE)
PARAMETER_NAMES = re.compile(r"\$(\d+)")
TYPES = {
    "int",
    "bigint",
    "bool",
    "integer",
    "text",
    "uuid",
    "timestamptz",
    "interval",
    "date",
    "json",
    "float8",
    "bytea",
}
SHORT_TYPES = {"int": "int4", "bigint": "int8", "bool": "bool", "integer": "int4"}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_fits_the_schema(name: str, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)

    prepared = await connection.prepare(STATEMENTS[name])

    types = {number: kind.name for number, kind in enumerate(prepared.get_parameters(), start=1)}
    assert types == _header_types(STATEMENTS[name])
    await connection.close()


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_says_what_it_promises_and_names_its_parameters(name: str) -> None:
    header = "\n".join(line for line in STATEMENTS[name].splitlines() if line.startswith("--"))

    used = set(PARAMETER_NAMES.findall(_without_comments(STATEMENTS[name])))

    assert header
    assert used <= set(PARAMETER_NAMES.findall(header))
    assert not re.search(r"\bSELECT\s+\*", STATEMENTS[name])


def test_statements_move_jobs_exactly_as_the_table_of_transitions_says() -> None:
    said = {}
    for name, text in (STATEMENTS | _function_headers()).items():
        found = TRANSITION.search(text)
        if found:
            said[name] = (_states(found[1]), _states(found[2]))

    assert said == {move.event.value: (move.before, move.after) for move in TRANSITIONS}
    assert {event.value for event in Event} == said.keys()


def _function_headers() -> dict[str, str]:
    """Return, for each function of the migrations whose header names a transition, that header; the last one counts."""
    headers = {}
    for _, text in sql_files(MIGRATIONS_FOLDER):
        for found in re.finditer(r"((?:^--.*\n)+)CREATE (?:OR REPLACE )?FUNCTION quorra\.(\w+)", text, re.MULTILINE):
            if TRANSITION.search(found[1]):
                headers[found[2]] = found[1]
    return headers


def _header_types(text: str) -> dict[int, str]:
    """Return the types that the header of a statement gives its parameters, in PostgreSQL's own names."""
    header = " ".join(line for line in text.splitlines() if line.startswith("--"))
    found = re.findall(r"\$(\d+) (?:\w+ )(\w+)(\[\])?", header)
    return {int(number): SHORT_TYPES.get(kind, kind) + array for number, kind, array in found if kind in TYPES}


def _states(text: str) -> frozenset[JobStatus]:
    return frozenset(JobStatus(name.strip()) for name in text.split(",") if name.strip())


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))


@pytest.mark.parametrize("analyze", ["ANALYZE quorra.jobs; ANALYZE quorra.ready;", ""])
async def test_hot_statements_neither_scan_nor_sort_a_filled_table(database_url: str, analyze: str) -> None:
    """Also before autovacuum has seen the table for the first time."""
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute(
        f"""
        INSERT INTO quorra.jobs (id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload)
        SELECT gen_random_uuid(), now(), now(), 0, 0, 3, 't', 'q', '{{}}' FROM generate_series(1, 50000);
        INSERT INTO quorra.ready
            (rank, run_at, job_id, attempts, deliveries, silent, generation, max_retries, failed, keyed, queue, type)
        SELECT 0, run_at, id, 0, 0, 0, 1, 3, false, false, queue, type FROM quorra.jobs;
        {analyze}
        """
    )
    await connection.execute(f"PREPARE lease AS {STATEMENTS['lease_jobs']}")
    plan = await connection.fetch(
        "EXPLAIN (COSTS OFF) EXECUTE lease('q', 100, NULL, 'w', 'p', 30000, gen_random_uuid(), false, "
        "-9223372036854775808, '1970-01-01', '00000000-0000-0000-0000-000000000000')"
    )
    text = "\n".join(row[0] for row in plan)

    assert "Index Scan using ready_order" in text
    assert "Seq Scan on ready" not in text
    assert "Bitmap" not in text
    assert "Sort Key: ready.rank" not in text
    assert "Seq Scan on jobs" not in text
    assert "Tid Scan on ready" in text
    await connection.close()


@pytest.mark.parametrize("analyze", ["ANALYZE quorra.leases", "SELECT 1"])
@pytest.mark.parametrize("name", ["settle_attempts", "renew_leases", "mark_started", "append_logs", "note_progress"])
async def test_a_report_looks_its_lease_up_among_those_of_many_workers(
    database_url: str, name: str, analyze: str
) -> None:
    """With 1,860 open batches a settle of one job took 13 ms: it walked over all of them in the order of the batch."""
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute(
        """
        INSERT INTO quorra.leases (
            batch, leased_at, expires_at, secret, keyed, queue, worker, principal, job_ids, attempts, deliveries,
            silents, generations, max_retries, starts_ms
        )
        SELECT
            number, now(), now() + interval '1 minute', gen_random_uuid(), false, 'q', 'w', 'p',
            ARRAY[gen_random_uuid()], '{0}', '{1}', '{0}', '{1}', '{3}', '{-1}'
        FROM generate_series(1, 2000) AS number
        """
    )
    await connection.execute(analyze)
    await connection.execute(f"PREPARE report AS {STATEMENTS[name]}")
    (parameters,) = await connection.fetchrow(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'report'"
    )
    plan = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE report({', '.join(['NULL'] * parameters)})")
    text = "\n".join(row[0] for row in plan)

    assert text.count("on leases") > 0
    assert text.count("on leases") == len(re.findall(r"Index Cond: \(batch = \w+\.batch\)", text)) + text.count(
        "Update on leases"
    ), text
    await connection.close()


async def test_a_settle_reads_each_lease_once_however_many_of_its_jobs_are_reported(queue: QueueSpec) -> None:
    """Joined by a number, a lease's arrays were copied for each report: a seventh of PostgreSQL's time in a drain."""
    await queue.submit(60)
    batches = [batch for batch in [await queue.lease(30), await queue.lease(30)] if batch is not None]
    held = [lease for batch in batches for lease in batch.lease_ids()]

    plan = await queue.pool.fetch(
        f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {STATEMENTS['settle_attempts']}",
        [batch.batch for batch in batches],
        [batch.secret for batch in batches],
        [30, 30],
        PRINCIPAL,
        array_text([lease.ordinal for lease in held]),
        array_text([lease.job_hex for lease in held]),
        None,
        array_text([1] * 60),
        *[None] * 5,
    )
    text = "\n".join(row[0] for row in plan)

    assert re.search(r"CTE Scan on held \(actual rows=2(\.00)? loops=1\)", text), text
    assert re.search(r"Insert on outcomes \(actual rows=60(\.00)? loops=1\)", text), text


async def test_a_page_of_ended_jobs_looks_up_its_jobs_and_reads_no_others(database_url: str) -> None:
    """A page of dead letters took seconds among 156,000 jobs: all of them were kept, and compared with each outcome."""
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute(
        """
        INSERT INTO quorra.jobs (id, created_at, run_at, timeout_ms, priority, max_retries, type, queue, payload)
        SELECT gen_random_uuid(), now(), now(), 0, 0, 3, 't', 'q', '{}' FROM generate_series(1, 5000);
        INSERT INTO quorra.outcomes
            (job_id, batch, ordinal, kind, status, ended_at, attempts, deliveries, generation, late, queue, worker)
        SELECT id, row_number() OVER (), 1, 'failed', 'dead', now(), 1, 1, 1, false, 'q', 'w' FROM quorra.jobs;
        ANALYZE quorra.jobs; ANALYZE quorra.outcomes;
        """
    )
    await connection.execute(f"PREPARE page AS {STATEMENTS['list_ended']}")
    plan = await connection.fetch(
        "EXPLAIN (COSTS OFF) EXECUTE page(NULL, 200, NULL, NULL, NULL, NULL, NULL, NULL, 'dead', NULL)"
    )
    text = "\n".join(row[0] for row in plan)
    await connection.close()

    assert "Index Cond: (id = outcomes.job_id)" in text, text
    assert "Materialize" not in text, text


async def test_old_keys_are_found_by_their_age(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    await connection.execute(f"PREPARE forget AS {STATEMENTS['forget_keys']}")
    plan = await connection.fetch("EXPLAIN (COSTS OFF) EXECUTE forget('1 day', 1000)")
    text = "\n".join(row[0] for row in plan)
    await connection.close()

    assert "Index Scan using keys_requested" in text, text
    assert "Tid Scan on keys" in text, text
