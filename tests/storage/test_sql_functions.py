"""The SQL functions: jobs come in and end within a user's own transaction, as strictly as through the other doors."""

import asyncio
import json
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from quorra_server.domain.errors import InvalidRequest
from quorra_server.domain.ids import new_job_id
from quorra_server.domain.limits import Limits
from quorra_server.domain.states import JobStatus, OutcomeKind
from quorra_server.domain.validation import JobDraft, validate_job
from quorra_server.services.lease_ids import text_of
from quorra_server.storage import leases

from tests.support.queue_spec import LEASE_LOST, QueueSpec
from tests.support.waiting import eventually

INVALID, KEY_REUSED, TOO_LARGE = "QR002", "QR003", "QR004"
COMPLETE = "SELECT quorra.complete($1, $2)"


async def test_a_job_that_says_nothing_more_has_the_defaults_of_every_door(queue: QueueSpec) -> None:
    by_sql, by_server = await queue.enqueue(), await queue.submit_one()

    ours, theirs = await queue.job(by_sql), await queue.job(by_server)

    names = set(ours.__slots__) - {"id", "created_at", "updated_at", "run_at"}
    assert {name: getattr(theirs, name) for name in names} == {name: getattr(ours, name) for name in names}
    assert {JobStatus.PENDING: 2} == await queue.counts()


async def test_every_option_arrives(queue: QueueSpec) -> None:
    due, job_id = datetime.now(UTC) + timedelta(hours=1), uuid4()

    await queue.enqueue(
        "email.send", '{"to": "a@b.c", "n": 1.0}', id=job_id, queue="mail", priority=-7, run_at=due, max_retries=0,
        unique_key="welcome", tags=["a", "b"], backoff='{"kind": "linear", "base_seconds": 1}', timeout_seconds=1.5,
    )  # fmt: skip

    job = await queue.job(job_id)
    assert ("email.send", '{"to": "a@b.c", "n": 1.0}', "mail", -7) == (job.type, job.payload, job.queue, job.priority)
    assert (due, 0, "welcome", ("a", "b"), 1500) == (
        job.run_at, job.max_retries, job.unique_key, job.tags, job.timeout_ms,
    )  # fmt: skip
    assert job.backoff is not None
    assert "linear" == job.backoff.kind


@pytest.mark.parametrize(
    "payload",
    ["'{\"n\": 1}'", "'{\"n\": 1}'::text", "'{\"n\": 1}'::json", "jsonb_build_object('n', 1)", "row_to_json(r)", "r"],
)
async def test_a_payload_may_be_text_json_or_a_row(queue: QueueSpec, payload: str) -> None:
    rows = await queue.pool.fetch(f"SELECT quorra.enqueue('t', {payload}) FROM (SELECT 1 AS n) AS r")

    assert {"n": 1} == json.loads((await queue.job(rows[0][0]["id"])).payload)


async def test_a_job_exists_if_and_when_the_transaction_commits(queue: QueueSpec, database_url: str) -> None:
    user = await asyncpg.connect(database_url)
    transaction = user.transaction()
    await transaction.start()
    await user.execute("SELECT quorra.enqueue('kept', '{}')")
    before = await queue.lease()
    await transaction.commit()
    transaction = user.transaction()
    await transaction.start()
    await user.execute("SELECT quorra.enqueue('dropped', '{}')")
    await transaction.rollback()

    after = await queue.lease()

    assert before is None
    assert after is not None
    assert ["kept"] == [job.type for job in after.jobs]
    await user.close()


async def test_a_trigger_can_enqueue(queue: QueueSpec) -> None:
    for statement in (
        "CREATE TABLE users (name text)",
        "CREATE FUNCTION welcome() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM quorra.enqueue('welcome', NEW, unique_key => NEW.name); RETURN NULL; END $$",
        "CREATE TRIGGER welcome AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION welcome()",
        "INSERT INTO users VALUES ('ada'), ('ada'), ('bob')",
    ):
        await queue.pool.fetch(statement)

    batch = await queue.lease()

    assert batch is not None
    assert ['{"name":"ada"}', '{"name":"bob"}'] == [job.payload for job in batch.jobs]


DEEP = "[" * 64 + "]" * 64
REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("type", INVALID, {"type": ""}),
    ("type", INVALID, {"type": "x" * 256}),
    ("type", INVALID, {"type": "a\nb"}),
    ("queue", INVALID, {"queue": ""}),
    ("queue", INVALID, {"queue": "a\u200bb"}),
    ("payload", INVALID, {"payload": None}),
    ("payload", INVALID, {"payload": "{"}),
    ("payload", INVALID, {"payload": "[]"}),
    ("payload", INVALID, {"payload": '{"a": NaN}'}),
    ("payload", INVALID, {"payload": '{"a": "\\u0000"}'}),
    ("payload", INVALID, {"payload": '{"a": "\\\\\\u0000"}'}),
    ("payload", INVALID, {"payload": '{"a": "\\ud83d"}'}),
    ("payload", INVALID, {"payload": '{"a": "\\ude00\\ud83d"}'}),
    ("payload", INVALID, {"payload": f'{{"a": {DEEP}}}'}),
    ("payload", INVALID, {"payload": '{"a":' * 100_000 + "1" + "}" * 100_000}),
    ("payload", TOO_LARGE, {"payload": '{"a": "' + "x" * (1024 * 1024) + '"}'}),
    ("priority", INVALID, {"priority": 2**31}),
    ("max_retries", INVALID, {"max_retries": -1}),
    ("max_retries", INVALID, {"max_retries": 1001}),
    ("delay_seconds", INVALID, {"delay_seconds": -1.0}),
    ("delay_seconds", INVALID, {"delay_seconds": float("nan")}),
    ("run_at", INVALID, {"run_at": datetime(1999, 1, 1, tzinfo=UTC)}),
    ("run_at", INVALID, {"run_at": datetime(2100, 1, 1, tzinfo=UTC)}),
    ("run_at", INVALID, {"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay_seconds": 1.0}),
    ("unique_key", INVALID, {"unique_key": ""}),
    ("tags", INVALID, {"tags": ["x"] * 33}),
    ("tags[1]", INVALID, {"tags": ["x", ""]}),
    ("tags", INVALID, {"tags": [None]}),
    ("backoff", INVALID, {"backoff": "[]"}),
    ("backoff.kind", INVALID, {"backoff": '{"kind": "never"}'}),
    ("backoff.jitter", INVALID, {"backoff": '{"jitter": 1.5}'}),
    ("backoff.base_seconds", INVALID, {"backoff": '{"base_seconds": "2"}'}),
    ("backoff.color", INVALID, {"backoff": '{"color": 1}'}),
    ("timeout_seconds", INVALID, {"timeout_seconds": 604_801.0}),
]


@pytest.mark.parametrize(("field", "code", "options"), REFUSED, ids=lambda value: str(value)[:40])
async def test_what_cannot_be_accepted_is_refused_with_its_field(
    queue: QueueSpec, field: str, code: str, options: dict[str, Any]
) -> None:
    given = {"type": "task", "payload": "{}", **options}

    with pytest.raises(asyncpg.PostgresError) as refused:
        await queue.enqueue(**given)

    assert (code, field) == (refused.value.sqlstate, refused.value.column_name)
    assert {} == await queue.places()


@pytest.mark.parametrize(
    "options",
    [
        {"type": "x" * 255, "queue": "a b \u00e9"},
        {"payload": '{"a": ' + "[" * 63 + "]" * 63 + ', "b": "\\ud83d\\ude00 \\\\u0000 [[[["}'},
        {"payload": json.dumps({"a": [[]] * 1000})},
        {"priority": -(2**31), "max_retries": 1000, "delay_seconds": 0.0, "timeout_seconds": 604_800.0},
        {"queue": None, "priority": None, "max_retries": None, "tags": [], "unique_key": "k" * 255},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_the_utmost_is_accepted(queue: QueueSpec, options: dict[str, Any]) -> None:
    assert await queue.enqueue(**{"type": "task", **options})


async def test_printable_means_what_it_means_at_the_other_doors(queue: QueueSpec) -> None:
    known = [chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    known = [character for character in known if unicodedata.category(character) != "Cn"]

    rows = await queue.pool.fetch("SELECT c FROM unnest($1::text[]) AS c WHERE NOT quorra.is_printable(c)", known)

    assert {character for character in known if not character.isprintable()} == {row["c"] for row in rows}


def test_the_refused_samples_are_refused_by_the_servers_doors_too() -> None:
    """Else the two could drift apart unnoticed."""
    for field, _, options in REFUSED:
        named = {"type": "task", "payload": "{}", **options}
        for seconds, milliseconds in (("delay_seconds", "delay_ms"), ("timeout_seconds", "timeout_ms")):
            if seconds in named:
                named[milliseconds] = named.pop(seconds) * 1000
        if field == "tags" or field.startswith("backoff") or field == "payload":
            continue
        with pytest.raises((InvalidRequest, ValueError)) as refused:
            validate_job(JobDraft(**named), Limits(), unit="seconds")
        if isinstance(refused.value, InvalidRequest):
            assert field == refused.value.field


async def test_ids_are_of_version_7_and_keep_the_order_of_one_session(queue: QueueSpec) -> None:
    rows = await queue.pool.fetch("SELECT (quorra.enqueue('t', '{}')).id AS id FROM generate_series(1, 200)")

    ids: list[UUID] = [row["id"] for row in rows]
    assert {7} == {job_id.version for job_id in ids}
    assert sorted(ids) == ids
    assert abs((ids[0].int >> 80) - (new_job_id().int >> 80)) < 60_000


async def test_a_taken_unique_key_merges_and_says_so_until_the_job_ends(queue: QueueSpec) -> None:
    call = "SELECT id, existing FROM quorra.enqueue('t', '{}', unique_key => 'k')"
    first, second = [(await queue.pool.fetch(call))[0] for _ in range(2)]
    await queue.complete(await queue.lease_one())

    third = (await queue.pool.fetch(call))[0]

    assert [False, True, False] == [row["existing"] for row in (first, second, third)]
    assert first["id"] == second["id"] != third["id"]


async def test_a_unique_key_waits_for_the_transaction_that_claims_it(queue: QueueSpec, database_url: str) -> None:
    first, second = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    call = "SELECT id, existing FROM quorra.enqueue('t', '{}', unique_key => 'k')"
    transaction = first.transaction()
    await transaction.start()
    won = await first.fetchrow(call)
    waiting = asyncio.create_task(second.fetchrow(call))
    await eventually(lambda: _waits_for_a_lock(queue, second.get_server_pid()), "the second one waits")

    await transaction.commit()
    merged = await waiting

    assert (won["id"], True) == (merged["id"], merged["existing"])
    await first.close()
    await second.close()


async def test_an_id_is_safe_to_repeat_and_never_means_other_work(queue: QueueSpec) -> None:
    job_id = uuid4()
    for _ in range(2):
        await queue.enqueue(id=job_id, unique_key="k")

    with pytest.raises(asyncpg.PostgresError) as refused:
        await queue.enqueue("other", id=job_id)

    assert (KEY_REUSED, "id") == (refused.value.sqlstate, refused.value.column_name)
    assert 1 == len(await queue.places())


async def test_repeating_the_id_of_an_ended_job_leaves_its_key_free(queue: QueueSpec) -> None:
    job_id = await queue.enqueue(id=uuid4(), unique_key="k")
    await queue.complete(await queue.lease_one())

    await queue.enqueue(id=job_id, unique_key="k")

    assert [] == await queue.pool.fetch("SELECT key FROM quorra.keys")


async def test_a_completion_is_an_outcome_like_any_other(queue: QueueSpec) -> None:
    by_sql, by_report = await queue.submit(2)
    first, second = await queue.lease_one(), await queue.lease_one()

    accepted = [await queue.complete(first, '{"sent": true}'), await queue.succeed(second, {"sent": True})]

    ours, theirs = await queue.job(by_sql), await queue.job(by_report)
    assert [True, True] == accepted
    assert (theirs.status, theirs.attempts, theirs.deliveries, theirs.result) == (
        ours.status, ours.attempts, ours.deliveries, ours.result,
    )  # fmt: skip
    assert ["succeeded"] == await queue.history_of(by_sql)
    assert {JobStatus.SUCCEEDED: 2} == await queue.counts()
    assert {first.batch, second.batch} == await leases.close_batches(queue.pool, None)


@pytest.mark.parametrize(
    ("result", "kept"),
    [("NULL", None), ("'[1]'", "[1]"), ("5", "5"), ("'{}'::jsonb", "{}"), ("to_json('a'::text)", '"a"')],
)
async def test_a_result_may_be_text_json_or_any_value(queue: QueueSpec, result: str, kept: str | None) -> None:
    job_id = await queue.submit_one()
    lease = await queue.lease_one()

    await queue.pool.fetch(f"SELECT quorra.complete($1, $2, {result})", job_id, text_of(lease))

    assert kept == (await queue.job(job_id)).result


async def test_an_effect_and_its_outcome_are_one_commit(queue: QueueSpec, database_url: str) -> None:
    await queue.pool.fetch("CREATE TABLE effects (job_id uuid)")
    job_id = await queue.submit_one()
    lease = await queue.lease_one()
    user = await asyncpg.connect(database_url)

    transaction = user.transaction()
    await transaction.start()
    await user.execute("INSERT INTO effects VALUES ($1)", job_id)
    await user.execute(COMPLETE, job_id, text_of(lease))
    await transaction.rollback()
    after_rollback = await queue.status_of(job_id)
    async with user.transaction():
        await user.execute("INSERT INTO effects VALUES ($1)", job_id)
        await user.execute(COMPLETE, job_id, text_of(lease))

    assert JobStatus.LEASED == after_rollback
    assert JobStatus.SUCCEEDED == await queue.status_of(job_id)
    assert 1 == len(await queue.pool.fetch("SELECT FROM effects"))
    await user.close()


async def test_a_lost_lease_raises_and_takes_the_users_work_along(queue: QueueSpec, database_url: str) -> None:
    await queue.pool.fetch("CREATE TABLE effects (job_id uuid)")
    job_id = await queue.submit_one()
    lease = await queue.lease_one()
    await queue.pass_time(31)
    await queue.expire()
    user = await asyncpg.connect(database_url)

    async def work() -> None:
        async with user.transaction():
            await user.execute("INSERT INTO effects VALUES ($1)", job_id)
            await user.execute(COMPLETE, job_id, text_of(lease))

    with pytest.raises(asyncpg.PostgresError) as lost:
        await work()

    assert LEASE_LOST == lost.value.sqlstate
    assert "expired" in str(lost.value.detail)
    assert [] == await queue.pool.fetch("SELECT FROM effects")
    assert ["expired"] == await queue.history_of(job_id)
    await user.close()


async def test_a_guessed_secret_a_second_word_and_a_cancelled_lease_are_lost(queue: QueueSpec) -> None:
    await queue.submit(2)
    settled, cancelled = await queue.lease_one(), await queue.lease_one()
    await queue.cancel(cancelled.job_id)

    answers = [
        await queue.complete(settled._replace(secret=uuid4())),
        await queue.complete(settled),
        await queue.complete(settled),
        await queue.fail_in_sql(settled),
        await queue.succeed(settled),
        await queue.complete(cancelled),
    ]

    assert [False, True, False, False, False, False] == answers


async def test_a_lease_id_that_is_none_or_belongs_to_another_job_names_the_field(queue: QueueSpec) -> None:
    job_id = await queue.submit_one()
    lease = await queue.lease_one()

    fields = []
    for job, text in ((job_id, "nonsense"), (job_id, ""), (uuid4(), text_of(lease))):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await queue.pool.fetch(COMPLETE, job, text)
        fields.append((refused.value.sqlstate, refused.value.column_name))

    assert [(INVALID, "lease_id"), (INVALID, "lease_id"), (INVALID, "job_id")] == fields
    assert JobStatus.LEASED == await queue.status_of(job_id)


async def test_failures_back_off_die_and_choose_their_delay_as_with_the_other_doors(queue: QueueSpec) -> None:
    patient = await queue.submit_one()
    await queue.fail_in_sql(await queue.lease_one(), "no such host", error_kind="OSError")
    last = await queue.submit_one(max_retries=0)
    await queue.fail_in_sql(await queue.lease_one())
    hopeless = await queue.submit_one()
    await queue.fail_in_sql(await queue.lease_one(), non_retryable=True)
    chosen = await queue.submit_one()
    await queue.fail_in_sql(await queue.lease_one(), retry_after_seconds=60.0)

    assert (JobStatus.FAILED, 1, "no such host") == (
        (job := await queue.job(patient)).status, job.attempts, job.last_error,
    )  # fmt: skip
    assert pytest.approx(await queue.seconds_until_due(patient), abs=0.5) == 2
    assert (JobStatus.DEAD, "retries_exhausted") == ((job := await queue.job(last)).status, job.dead_because)
    assert (JobStatus.DEAD, "non_retryable") == ((job := await queue.job(hopeless)).status, job.dead_because)
    assert pytest.approx(await queue.seconds_until_due(chosen), abs=0.5) == 60
    assert {JobStatus.FAILED: 2, JobStatus.DEAD: 2} == await queue.counts()


async def test_many_open_completions_of_a_batch_let_heartbeats_pass_and_hold_off_expiry(
    queue: QueueSpec, database_url: str
) -> None:
    await queue.submit(5)
    batch = await queue.lease(5)
    assert batch is not None
    users = [await asyncpg.connect(database_url) for _ in range(4)]
    open_transactions = [user.transaction() for user in users]
    held = batch.lease_ids()
    for user, transaction, lease in zip(users, open_transactions, held, strict=False):
        await transaction.start()
        await user.execute(COMPLETE, lease.job_id, text_of(lease), timeout=2)
    neighbour = await queue.settle(held[4], OutcomeKind.SUCCEEDED, run_ms=1)
    renewed = await queue.renew(held[0])
    await queue.pass_time(31)

    passed_by = await queue.expire()
    for transaction in open_transactions[:3]:
        await transaction.commit()
    await open_transactions[3].rollback()
    expired = await queue.expire()

    assert (True, True) == (neighbour, renewed)
    assert [] == passed_by
    assert [held[3].job_id] == [ended.lease.job_id for ended in expired]
    assert {JobStatus.SUCCEEDED: 4, JobStatus.PENDING: 1} == await queue.counts()
    for user in users:
        await user.close()


async def test_of_two_transactions_that_complete_one_lease_the_first_to_commit_wins(
    queue: QueueSpec, database_url: str
) -> None:
    job_id = await queue.submit_one()
    lease = await queue.lease_one()
    first, second = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    transaction = first.transaction()
    await transaction.start()
    await first.execute(COMPLETE, job_id, text_of(lease))
    waiting = asyncio.create_task(second.execute(COMPLETE, job_id, text_of(lease)))
    await eventually(lambda: _waits_for_a_lock(queue, second.get_server_pid()), "the second one waits")

    await transaction.commit()

    with pytest.raises(asyncpg.PostgresError) as lost:
        await waiting
    assert LEASE_LOST == lost.value.sqlstate
    assert ["succeeded"] == await queue.history_of(job_id)
    await first.close()
    await second.close()


async def _waits_for_a_lock(queue: QueueSpec, pid: int) -> bool:
    rows = await queue.pool.fetch("SELECT cardinality(pg_blocking_pids($1)) AS n", pid)
    return bool(rows[0]["n"])
