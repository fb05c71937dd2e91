"""The judge of promotions fails a loss in silence, a write to the old primary, and a promotion that nobody reported."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.judging.promotions import PromotionsVerdict, judge

JOB, OTHER = "01a20000-0000-7000-8000-000000000001", "01a20000-0000-7000-8000-000000000002"
LEASE_OF_JOB = f"1.{JOB.replace('-', '')}.1f.00"
AT = 1_800_000_000.0


def test_a_run_that_lost_nothing_is_passed(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "sync", jobs=[JOB, OTHER], failovers=[_failover()])

    assert ("passed", []) == (verdict.verdict, verdict.why)


def test_a_loss_that_is_reported_by_id_passes_in_asynchronous_mode(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "async", jobs=[JOB], failovers=[_failover(job_ids=[OTHER])])

    assert ("passed", 1, 0) == (verdict.verdict, verdict.told, verdict.silent)


def test_a_loss_that_is_reported_by_id_fails_in_synchronous_mode(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "sync", jobs=[JOB], failovers=[_failover(job_ids=[OTHER])])

    assert "failed" == verdict.verdict
    assert "are lost with a synchronous standby" in verdict.why[0]


def test_a_loss_within_a_window_is_reported(tmp_path: Path) -> None:
    window = _failover(lost_from=_moment(-10), lost_until=_moment(10))

    verdict = _judged(tmp_path, "async", jobs=[JOB], failovers=[window])

    assert ("passed", 1, 0) == (verdict.verdict, verdict.in_window, verdict.silent)


def test_a_silent_loss_fails(tmp_path: Path) -> None:
    window = _failover(lost_from=_moment(60), lost_until=_moment(70))

    verdict = _judged(tmp_path, "async", jobs=[JOB], failovers=[window])

    assert ("failed", ["1 losses were not reported"]) == (verdict.verdict, verdict.why)


def test_a_window_without_a_beginning_reports_nothing(tmp_path: Path) -> None:
    """Otherwise a product that says "something may be lost" once could lose everything that came before."""
    endless = _failover(lost_from=None, lost_until=_moment(10))

    verdict = _judged(tmp_path, "async", jobs=[JOB], failovers=[endless])

    assert ("failed", 0, 1) == (verdict.verdict, verdict.in_window, verdict.silent)


def test_an_outcome_that_is_gone_in_silence_fails(tmp_path: Path) -> None:
    told = {"event": "plain_told", "answer": "acknowledged", "forged": False, "lease": LEASE_OF_JOB}

    verdict = _judged(tmp_path, "async", jobs=[JOB, OTHER], failovers=[_failover()], more=[told])

    assert ("failed", {"jobs": 0, "outcomes": 1}) == (verdict.verdict, verdict.lost)


def test_a_write_to_the_old_primary_fails(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "sync", jobs=[JOB, OTHER], failovers=[_failover()], to_the_old=2)

    assert ("failed", ["2 writes went to a primary of before"]) == (verdict.verdict, verdict.why)


def test_a_promotion_that_nobody_reported_fails(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "sync", jobs=[JOB, OTHER], failovers=[])

    assert ("failed", ["only 0 of 1 promotions were reported"]) == (verdict.verdict, verdict.why)


def test_writes_that_come_back_late_fail(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "sync", jobs=[JOB, OTHER], failovers=[_failover()], recovery_seconds=4.0)

    assert ("failed", ["writes were back after 4 s at p99"]) == (verdict.verdict, verdict.why)


def test_an_asynchronous_run_that_lost_nothing_is_no_proof(tmp_path: Path) -> None:
    verdict = _judged(tmp_path, "async", jobs=[JOB, OTHER], failovers=[_failover()])

    assert "unknown" == verdict.verdict


# One promotion, before which two jobs were accepted.


def _judged(
    folder: Path,
    mode: str,
    *,
    jobs: list[str],
    failovers: list[dict[str, Any]],
    to_the_old: int = 0,
    recovery_seconds: float = 0.5,
    more: list[dict[str, Any]] | None = None,
) -> PromotionsVerdict:
    accepted = {"event": "ok", "what": "submit", "jobs": [[JOB, False], [OTHER, False]]}
    promoted = {"event": "promoted", "way": "kill", "recovery_seconds": [recovery_seconds], "to_the_old": to_the_old}
    _write(folder / "client-1.jsonl", [accepted, *(more or [])])
    _write(folder / "faults-1.jsonl", [promoted])
    (folder / "end.json").write_text(json.dumps({"failovers": failovers, "jobs": jobs, "outcomes": []}))
    return judge(folder, mode=mode, recovery_seconds_max=3.0)


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps({"at": AT, **line}) + "\n" for line in lines))


def _failover(
    job_ids: list[str] | None = None, lost_from: str | None = None, lost_until: str | None = None
) -> dict[str, Any]:
    window = {"lost_from": lost_from, "lost_until": lost_until}
    return {"system_identifier": 1, "timeline": 2, "job_ids": job_ids or [], **window}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(AT + seconds, UTC).isoformat()
