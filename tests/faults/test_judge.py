"""The judge stands apart from what it judges, decodes what PostgreSQL says, and sees what is wrong."""

import ast
import struct
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.faults.judging.fold import Reclaim
from tests.faults.judging.judge import Judge, Quotas
from tests.faults.judging.pgoutput import EPOCH_2000_SECONDS, Change, Transaction, append_record, read_transactions
from tests.faults.lives import (
    AT,
    JOB,
    LEASE_SECONDS,
    NO_QUOTAS,
    OTHER,
    TOKENS,
    Line,
    again,
    ended,
    fault,
    handed_over,
    joined,
    judged,
    leased,
    run_of,
    submission,
    submitted,
    told,
    write_history,
)

JUDGING = Path(__file__).parent / "judging"
STANDARD = {"ast", "bisect", "collections", "dataclasses", "datetime", "itertools", "json", "pathlib", "struct", "sys"}
STANDARD |= {"typing"}


@pytest.mark.parametrize("path", sorted(JUDGING.glob("*.py")), ids=lambda path: path.name)
def test_the_judge_imports_only_itself_and_the_standard_library(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")

    assert set() == {
        name
        for name in imported
        if name.partition(".")[0] not in STANDARD and not name.startswith("tests.faults.judging")
    }


def test_a_recording_is_read_once_although_postgresql_sends_a_part_of_it_again(tmp_path: Path) -> None:
    relation = b"R" + struct.pack("!i", 7) + b"quorra\0outcomes\0d" + struct.pack("!h", 2)
    relation += b"\1kind\0" + struct.pack("!ii", 25, -1) + b"\0reason\0" + struct.pack("!ii", 25, -1)
    insert = b"I" + struct.pack("!i", 7) + b"N" + struct.pack("!h", 2) + b"t" + struct.pack("!i", 6) + b"failed" + b"n"
    begin = b"B" + struct.pack("!qqi", 100, 5_000_000, 1)
    commit = b"C\0" + struct.pack("!qqq", 100, 110, 5_000_000)
    path = tmp_path / "oracle.bin"
    with path.open("wb") as file:
        for message in (begin, relation, insert, commit, begin, relation, insert, commit):
            append_record(file, message)

    (transaction,) = read_transactions(path)

    assert EPOCH_2000_SECONDS + 5 == transaction.committed_at
    assert [Change("insert", "outcomes", {"kind": "failed", "reason": None})] == transaction.changes


def test_a_run_in_which_enough_happened_and_nothing_broke_is_passed(tmp_path: Path) -> None:
    every_once = Quotas(**{quota.name: int(quota.name != "checks") for quota in fields(Quotas)})

    verdict = judged(tmp_path, every_once, *_eventful_run())

    assert ("passed", []) == (verdict.verdict, verdict.why)


@pytest.mark.parametrize("quota", [quota.name for quota in fields(Quotas) if quota.name != "checks"])
def test_a_run_in_which_too_little_of_something_happened_is_no_proof(tmp_path: Path, quota: str) -> None:
    verdict = judged(tmp_path, replace(NO_QUOTAS, **{quota: 1_000}), *_eventful_run())

    assert "unknown" == verdict.verdict
    assert [quota] == [line.partition(":")[0] for line in verdict.why]


def test_an_invariant_that_was_put_to_the_test_too_seldom_is_no_proof(tmp_path: Path) -> None:
    verdict = judged(tmp_path, replace(NO_QUOTAS, checks=1), [], [fault()])

    assert "unknown" == verdict.verdict
    assert any(line.startswith("I6 ") and "checked 0 of at least 1 times" in line for line in verdict.why)
    assert not any(line.startswith("I11 ") for line in verdict.why)


def test_a_run_without_faults_and_a_run_without_load_are_unknown(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, [], [])

    assert "unknown" == verdict.verdict
    assert ["jobs: 0 of at least 0", "faults: 0 of at least 0"] == verdict.why


def test_what_was_lost_doubled_or_refused_is_counted_also_where_nothing_was(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, [], [])

    names = ("lost", "doubled", "doubled submissions", "doubled outcomes", "refused")
    assert dict.fromkeys(names, 0) == {name: verdict.counts[name] for name in names}


@pytest.mark.parametrize(
    ("second_outcome", "batch"),
    [([], 1), ([again(), leased(batch=2)], 2)],
    ids=["second outcome of a lease", "second success of a life"],
)
def test_an_outcome_that_comes_twice_is_doubled(tmp_path: Path, second_outcome: list[Transaction], batch: int) -> None:
    life = [submitted(), leased(), ended(), *second_outcome, ended(batch=batch)]

    verdict = judged(tmp_path, NO_QUOTAS, life, submission())

    assert ("failed", 0) == (verdict.verdict, verdict.counts["doubled submissions"])
    assert verdict.counts["doubled"] == verdict.counts["doubled outcomes"] > 0


def test_a_submission_that_made_two_jobs_is_doubled(tmp_path: Path) -> None:
    twice = [submitted(), submitted(OTHER, token=TOKENS[JOB])]

    verdict = judged(tmp_path, NO_QUOTAS, twice, submission())

    assert ("failed", 1, 0) == (verdict.verdict, verdict.counts["doubled"], verdict.counts["doubled outcomes"])


def test_an_accepted_job_that_is_not_there_is_lost(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, [], submission())

    assert ("failed", 1) == (verdict.verdict, verdict.counts["lost"])


def test_a_kind_of_fault_without_an_effect_fails_the_run(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, [], [fault(hits=0)])

    assert ("failed", ["the fault worker.kill never had an effect"]) == (verdict.verdict, verdict.why)


def test_a_kind_of_fault_that_had_no_turn_makes_the_run_no_proof(tmp_path: Path) -> None:
    transactions, lines = _eventful_run()
    kinds = {"event": "kinds", "asked": ["worker.kill", "pg.restart_fast"], "left_out": {}}

    verdict = judged(tmp_path, NO_QUOTAS, transactions, [*lines, kinds])

    assert ("unknown", ["the fault pg.restart_fast never had its turn"]) == (verdict.verdict, verdict.why)


def test_kinds_that_cannot_be_done_here_are_named_with_the_reason_and_spoil_nothing(tmp_path: Path) -> None:
    transactions, lines = _eventful_run()
    left_out = {"pgbouncer.kill": "there is no PgBouncer", "pgbouncer.stop": "there is no PgBouncer"}
    kinds = {"event": "kinds", "asked": ["worker.kill", *left_out], "left_out": left_out}

    verdict = judged(tmp_path, NO_QUOTAS, transactions, [*lines, kinds])

    assert ("passed", left_out) == (verdict.verdict, verdict.left_out)
    assert ["left out, there is no PgBouncer: pgbouncer.kill, pgbouncer.stop"] == verdict.why


@pytest.mark.parametrize(("silent_seconds", "broken"), [(20, {}), (5, {"I16": 1})], ids=["standing still", "at work"])
def test_what_is_late_while_the_whole_machine_stands_still_is_not_held_against_the_product(
    tmp_path: Path, silent_seconds: int, broken: dict[str, int]
) -> None:
    lines = [{"event": "read_back", "at": AT + second, "job": JOB, "status": 0} for second in (0, silent_seconds)]
    write_history(tmp_path, lines)
    judge = Judge(tmp_path, NO_QUOTAS)
    judge.fold.reclaims.append(Reclaim(expires_at=AT + 1, ended_at=AT + 4, worker="w", retry_at=None))

    verdict = judge.judge()

    assert broken == verdict.broken


@pytest.mark.parametrize(
    ("kind", "holds_up", "is_asked"), [("worker.kill", False, True), ("pg.restart_fast", True, False)]
)
def test_how_soon_a_job_runs_again_is_asked_where_nothing_kept_all_jobs_waiting(
    tmp_path: Path, kind: str, holds_up: bool, is_asked: bool
) -> None:
    write_history(tmp_path, [fault(kind, holds_up=holds_up)])
    judge = Judge(tmp_path, NO_QUOTAS, with_limits=True)
    judge.fold.reclaims.append(
        Reclaim(expires_at=AT + 60, ended_at=AT + 60, worker="w", retry_at=None, leased_again_at=AT + 63)
    )

    verdict = judge.judge()

    assert is_asked == any("is 3 s of at most 2 s" in line for line in verdict.why), verdict.why


def test_how_long_writes_were_away_after_a_fault_is_told_for_each_kind(tmp_path: Path) -> None:
    before, after = submission(call="before"), submission(OTHER, call="after")
    kinds = [fault("pg.restart_fast"), fault("worker.kill"), fault("server.kill", hits=0)]
    moments = [{**line, "at": AT + shift} for lines, shift in ((before, -1), (after, 2)) for line in lines]
    write_history(tmp_path, [*kinds, *moments])

    verdict = Judge(tmp_path, NO_QUOTAS).judge()

    two_seconds = {"count": 1, "p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
    assert {"pg.restart_fast": two_seconds, "worker.kill": two_seconds} == verdict.back_after


@pytest.mark.parametrize(("state", "broken"), [("missing", {"I1": 1}), ("leased", {"I16": 1}), ("succeeded", {})])
def test_without_the_databases_log_a_last_look_decides_and_the_rest_is_named(
    tmp_path: Path, state: str, broken: dict[str, int]
) -> None:
    write_history(tmp_path, [*submission(), {"event": "final", "job": JOB, "state": state}])

    verdict = Judge(tmp_path, NO_QUOTAS).judge()

    assert broken == verdict.broken
    assert "only the database's own log" in verdict.not_applicable["I20"]


def _eventful_run() -> tuple[list[Transaction], list[Line]]:
    """Everything that a quota asks for, once: one job runs out of its lease, the other one is handed over."""
    after = LEASE_SECONDS + 1
    ran_out = joined(ended("expired", ended_at=after, retry_at=after), again(due_in=after))
    first = [submitted(), leased(), ran_out]
    first += [leased(batch=2, after=after), ended(batch=2, leased_at=after, ended_at=after, deliveries="2")]
    second = [handed_over(OTHER, batch=3), ended(job=OTHER, batch=3)]
    lines = [*submission(), *submission(OTHER, call="other"), *run_of(JOB, 2), *run_of(OTHER, 3), fault()]
    lines += [
        told("succeeded", "lease_lost"),
        {"event": "unknown", "call": "submission", "what": "submit"},
        {"event": "restart", "what": "worker"},
    ]
    return first + second, lines
