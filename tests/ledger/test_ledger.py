"""Exactly one effect for each succeeded job, none for others, under faults; and the count can see doubling."""

import pytest

from tests.ledger.judge import Count, Guard, Verdict
from tests.ledger.run import LedgerRun

SECONDS_MAX = 90
SEED = 11
EXPIRED_MIN = 5
FAULTS = {"kill", "stop", "cut_server", "cut_database"}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("guard", [Guard.COMMIT, Guard.INBOX])
async def test_effects_happen_once_under_kills_stops_and_cuts(guard: Guard, database_url: str) -> None:
    ledger = LedgerRun(database_url, guard, SEED, print)

    found = await ledger.run(SECONDS_MAX, until=lambda count: _is_enough(count) and FAULTS == ledger.faults.keys())

    assert Verdict.PASSED == found.verdict(expired_min=EXPIRED_MIN), found
    assert FAULTS == ledger.faults.keys()


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_without_the_guard_the_same_run_doubles_effects(database_url: str) -> None:
    ledger = LedgerRun(database_url, Guard.NONE, SEED, print)

    found = await ledger.run(SECONDS_MAX, until=lambda count: count.doubled > 0 and count.stray > 0)

    assert Verdict.FAILED == found.verdict(expired_min=EXPIRED_MIN), found
    assert found.doubled > 0
    assert found.stray > 0


def test_a_run_without_faults_says_nothing() -> None:
    found = Count(succeeded=100, others=10, unfinished=0, missing=0, doubled=0, stray=0, expired=0)

    assert Verdict.UNKNOWN == found.verdict(expired_min=1)


def _is_enough(count: Count) -> bool:
    return count.expired >= EXPIRED_MIN and count.succeeded >= 100 and count.others >= 5
