"""The judge stands apart from what it judges, decodes what PostgreSQL says, and sees what is wrong."""

import ast
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judging.fold import Findings, Fold, Reclaim
from tests.faults.judging.judge import Judge, Quotas, Verdict
from tests.faults.judging.pgoutput import EPOCH_2000_SECONDS, Change, Row, Transaction, append_record, read_transactions

JUDGING = Path(__file__).parent / "judging"
STANDARD = {"ast", "bisect", "collections", "dataclasses", "datetime", "itertools", "json", "pathlib", "struct", "sys"}
STANDARD |= {"typing"}
JOB, OTHER = "01a20000-0000-7000-8000-000000000001", "01a20000-0000-7000-8000-000000000002"
AT = 1_800_000_000.0
NO_QUOTAS = Quotas(0, 0, 0, 0, 0, 0, 0, checks=0)


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


def test_a_life_without_a_fault_breaks_nothing() -> None:
    findings = _played(_submitted(), _leased(), _ended("succeeded"))

    assert {} == dict(findings.broken)
    assert findings.checked["I4"] > 0


def test_a_life_that_begins_with_a_lease_breaks_nothing() -> None:
    findings = _played(_handed_over(), _ended("succeeded", "2"))

    assert {} == dict(findings.broken)
    assert findings.checked["I14"] > 0


@pytest.mark.parametrize(
    ("invariant", "life"),
    [
        (
            "I4",
            [["_submitted"], ["_leased"], ["_ended", "expired"], ["_again"], ["_leased", "2"], ["_ended", "succeeded"]],
        ),
        ("I6", [["_submitted"], ["_leased"], ["_leased", "2"]]),
        ("I14", [["_submitted"], ["_leased"], ["_leased", "2"]]),
        ("I20", [["_submitted"], ["_gone"]]),
        ("I20", [["_submitted"], ["_leased"], ["_closed"]]),
        ("I3", [["_submitted"], ["_leased"], ["_ended", "succeeded"], ["_again"]]),
        ("I17", [["_submitted"], ["_leased"], ["_revived"]]),
        ("I8", [["_submitted", "60"], ["_leased"]]),
        ("I8", [["_handed_over", "60"]]),
        ("I20", [["_recorded"]]),
    ],
)
def test_a_life_that_breaks_an_invariant_is_seen(invariant: str, life: list[list[str]]) -> None:
    findings = _played(*(globals()[name](*more) for name, *more in life))

    assert findings.broken[invariant] >= 1, dict(findings.broken)


def test_an_accepted_job_that_is_not_there_is_lost(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, NO_QUOTAS, *_submission(OTHER))

    assert ("failed", 1) == (verdict.verdict, verdict.counts["lost"])


def test_a_run_without_faults_and_a_run_without_load_are_unknown(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, NO_QUOTAS)

    assert "unknown" == verdict.verdict
    assert ["jobs: 0 of at least 0", "faults: 0 of at least 0"] == verdict.why


def test_an_invariant_that_was_put_to_the_test_too_seldom_is_no_proof(tmp_path: Path) -> None:
    fault = {"event": "fault", "kind": "worker.kill", "began": AT, "ended": AT, "hits": 1, "holds_up": False}

    verdict = _judged(tmp_path, replace(NO_QUOTAS, checks=1), fault)

    assert "unknown" == verdict.verdict
    assert any(line.startswith("I6 ") and "checked 0 of at least 1 times" in line for line in verdict.why)
    assert not any(line.startswith("I11 ") for line in verdict.why)


def test_a_kind_of_fault_without_an_effect_fails_the_run(tmp_path: Path) -> None:
    fault = {"event": "fault", "kind": "worker.kill", "began": AT, "ended": AT, "hits": 0, "holds_up": False}

    verdict = _judged(tmp_path, NO_QUOTAS, fault)

    assert ("failed", ["the fault worker.kill never had an effect"]) == (verdict.verdict, verdict.why)


def test_a_run_that_met_too_few_lives_that_begin_with_a_lease_is_no_proof(tmp_path: Path) -> None:
    fault = {"event": "fault", "kind": "worker.kill", "began": AT, "ended": AT, "hits": 1, "holds_up": False}

    verdict = _judged(tmp_path, replace(NO_QUOTAS, handed_over=1), fault)

    assert "handed_over: 0 of at least 1" in verdict.why


def test_an_error_that_the_retry_rule_does_not_cover_fails_the_run(tmp_path: Path) -> None:
    invoke, _ = _submission(JOB)
    answer = {"event": "fail", "at": AT, "call": invoke["call"], "what": "submit", "status": 500, "code": "internal"}

    verdict = _judged(tmp_path, NO_QUOTAS, invoke, answer)

    assert {"retry": 1} == verdict.broken


@pytest.mark.parametrize(("silent_seconds", "broken"), [(20, {}), (5, {"I16": 1})], ids=["standing still", "at work"])
def test_what_is_late_while_the_whole_machine_stands_still_is_not_held_against_the_product(
    tmp_path: Path, silent_seconds: int, broken: dict[str, int]
) -> None:
    lines = [{"event": "read_back", "at": AT + second, "job": JOB, "status": 0} for second in (0, silent_seconds)]
    (tmp_path / "client-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
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
    fault = {"event": "fault", "at": AT, "kind": kind, "began": AT, "ended": AT, "hits": 1, "holds_up": holds_up}
    (tmp_path / "faults-1.jsonl").write_text(json.dumps(fault) + "\n")
    judge = Judge(tmp_path, NO_QUOTAS, with_limits=True)
    judge.fold.reclaims.append(
        Reclaim(expires_at=AT + 60, ended_at=AT + 60, worker="w", retry_at=None, leased_again_at=AT + 63)
    )

    verdict = judge.judge()

    assert is_asked == any("is 3 s of at most 2 s" in line for line in verdict.why), verdict.why


def test_without_the_databases_log_a_last_look_decides_and_the_rest_is_named(tmp_path: Path) -> None:
    lines = [*_submission(JOB), {"event": "final", "job": JOB, "state": "missing"}]
    (tmp_path / "client-1.jsonl").write_text("".join(json.dumps({"at": AT, **line}) + "\n" for line in lines))

    verdict = Judge(tmp_path, NO_QUOTAS).judge()

    assert {"I1": 1} == verdict.broken
    assert "only the database's own log" in verdict.not_applicable["I20"]


# One transaction each.


def _played(*transactions: Transaction) -> Findings:
    findings = Findings()
    Fold(findings).play(transactions)
    return findings


def _judged(folder: Path, quotas: Quotas, *lines: dict[str, Any]) -> Verdict:
    (folder / "client-1.jsonl").write_text("".join(json.dumps({"at": AT, **line}) + "\n" for line in lines))
    (folder / "oracle.bin").write_bytes(b"")
    return Judge(folder, quotas).judge()


def _submission(job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    invoke = {"event": "invoke", "call": "c", "what": "submit", "jobs": [[job, "token"]]}
    return invoke, {"event": "ok", "call": "c", "what": "submit", "status": 201, "jobs": [[job, False]]}


def _transaction(*changes: Change) -> Transaction:
    return Transaction(1, AT, list(changes))


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(AT + seconds, UTC).isoformat(sep=" ")


def _submitted(due_in: str = "0") -> Transaction:
    return _transaction(*_recorded().changes, Change("insert", "ready", _ready(due_in, deliveries=0)))


def _recorded(delay: str = "0") -> Transaction:
    job: Row = {"id": JOB, "type": "work", "queue": "q", "unique_key": None, "max_retries": "3", "backoff": None}
    job["payload"] = json.dumps({"token": "t", "plan": "o", "delay": int(delay)})
    return _transaction(Change("insert", "jobs", job))


def _handed_over(delay: str = "0") -> Transaction:
    return _transaction(*_recorded(delay).changes, *_leased("2").changes)


def _ready(due_in: str, deliveries: int) -> Row:
    counts = {"attempts": "0", "deliveries": str(deliveries), "generation": "1"}
    return {"job_id": JOB, "rank": "0", "run_at": _moment(float(due_in)), "queue": "q", "type": "work", **counts}


def _leased(batch: str = "1") -> Transaction:
    lease: Row = {"batch": batch, "leased_at": _moment(0), "expires_at": _moment(10), "worker": "w", "queue": "q"}
    lease |= {"job_ids": f"{{{JOB}}}", "attempts": "{0}", "starts_ms": "{-1}"}
    left = [Change("delete", "ready", {"job_id": JOB})] if batch == "1" else []
    return _transaction(*left, Change("insert", "leases", lease))


def _ended(kind: str, batch: str = "1") -> Transaction:
    outcome: Row = {"job_id": JOB, "batch": batch, "kind": kind, "leased_at": _moment(0), "ended_at": _moment(1)}
    outcome |= {
        "status": kind if kind == "succeeded" else None,
        "retry_at": None if kind == "succeeded" else _moment(1),
    }
    outcome |= {"attempts": "1" if kind == "succeeded" else "0", "deliveries": "1", "generation": "1", "late": "f"}
    return _transaction(Change("insert", "outcomes", outcome))


def _again() -> Transaction:
    return _transaction(Change("insert", "ready", _ready("0", deliveries=1)))


def _gone() -> Transaction:
    return _transaction(Change("delete", "ready", {"job_id": JOB}))


def _closed() -> Transaction:
    return _transaction(Change("delete", "leases", {"batch": "1"}))


def _revived() -> Transaction:
    return _transaction(Change("update", "leases", {"batch": "1", "expires_at": _moment(25), "starts_ms": "{-1}"}))
