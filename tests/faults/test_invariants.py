"""The judge sees when an invariant is broken: for each there is a life or a history that breaks it."""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.judging.fold import SILENT_DELIVERIES_SPARE, Findings, Fold
from tests.faults.judging.judge import INVARIANTS, NOT_APPLICABLE, UNSEEN_SECONDS_MAX
from tests.faults.judging.pgoutput import Transaction
from tests.faults.lives import (
    JOB,
    LEASE_SECONDS,
    NO_QUOTAS,
    OTHER,
    TOKENS,
    Line,
    again,
    answered,
    asked,
    at,
    closed,
    ended,
    handed_over,
    joined,
    judged,
    lease_text,
    leased,
    left_the_line,
    overwritten,
    purged,
    receipt,
    recorded,
    renewed,
    replayed,
    rescheduled,
    run_of,
    seen,
    submission,
    submitted,
    told,
)

JUDGING = Path(__file__).parent / "judging"


def _expired(batch: int, *, late_seconds: float = 1.0) -> Transaction:
    """A lease that runs out before its worker said a word."""
    over = LEASE_SECONDS + late_seconds
    outcome = ended("expired", batch=batch, ended_at=over, retry_at=over, deliveries=str(batch))
    return joined(outcome, again(deliveries=str(batch)))


def _failed(**different: str) -> Transaction:
    """A run that fails, and its job's back-off."""
    return joined(ended("failed"), again(due_in=3, **{"attempts": "1", **different}))


def _replay(*, call: str = "replay") -> list[Line]:
    """A replay that is asked for 1.5 s after the beginning, and acknowledged a second later."""
    return [
        asked("replay", call=call, after=1.5, jobs=[JOB]),
        answered("replay", call=call, after=2.5, jobs=[[JOB, 2]]),
    ]


def _merge() -> list[Line]:
    """A submission with a unique key, 100 s after the beginning, that is answered a second later: the job is there."""
    invoke = asked("submit", call="merge", after=100, jobs=[[None, TOKENS[OTHER]]], unique_key="k", is_merged=True)
    return [invoke, answered("submit", call="merge", after=101, jobs=[[JOB, True]])]


def _keyed_life(ended_after: float) -> list[Transaction]:
    return [submitted(unique_key="k"), leased(), at(ended_after, ended())]


# What PostgreSQL committed, and which invariant that breaks.
BROKEN_LIVES: list[tuple[str, list[Transaction]]] = [
    ("I2", [leased()]),
    ("I3", [submitted(), submitted()]),
    ("I3", [submitted(), leased(), ended(), again()]),
    ("I3", [submitted(), leased(), ended(generation="2")]),
    ("I3", [submitted(), leased(), ended(), overwritten()]),
    ("I3", [submitted(), leased(), _failed(generation="2")]),
    ("I3", [submitted(max_retries=0), leased(), ended("dead"), again(generation="2")]),
    ("I4", [submitted(), leased(), _expired(1), leased(batch=2), ended()]),
    ("I4", [submitted(), leased(), ended(), ended()]),
    ("I4", [submitted(), leased(), joined(ended("expired", ended_at=5.0, retry_at=5.0), again())]),
    ("I5", [submitted(), leased(), ended(ended_at=LEASE_SECONDS + 1.0)]),
    ("I6", [submitted(), leased(), leased(batch=2, waited=False)]),
    ("I6", [submitted(), leased(JOB, JOB)]),
    ("I6", [submitted(), again(deliveries="0")]),
    ("I7", [submitted(), leased(), ended(attempts="2")]),
    ("I7", [submitted(max_retries=0), leased(attempts=1), ended(attempts="2")]),
    ("I7", [submitted(), leased(), ended(deliveries="2")]),
    ("I7", [submitted(), leased(attempts=1)]),
    ("I7", [submitted(), leased(), _failed(deliveries="2")]),
    ("I7", [submitted(), leased(), renewed(LEASE_SECONDS, start=5), renewed(LEASE_SECONDS, start=-1)]),
    ("I7", [joined(recorded(), leased(waited=False, attempts=1))]),
    (
        "I7",
        [
            submitted(max_retries=0),
            *(
                transaction
                for batch in range(1, SILENT_DELIVERIES_SPARE + 2)
                for transaction in (leased(batch=batch), _expired(batch))
            ),
        ],
    ),
    ("I8", [submitted(due_in=60), leased()]),
    ("I8", [submitted(delay=600)]),
    ("I8", [handed_over(delay=60)]),
    ("I9", [submitted(), submitted(OTHER), leased(OTHER, JOB)]),
    ("I10", [submitted(), leased(), ended("failed", retry_at=4.0)]),
    ("I10", [submitted(), leased(), joined(ended("failed"), again(due_in=2, attempts="1"))]),
    ("I12", [submitted(unique_key="k"), submitted(OTHER, unique_key="k")]),
    ("I14", [submitted(), leased(), leased(batch=2, waited=False)]),
    ("I14", [submitted(), leased(queue="other")]),
    ("I14", [joined(recorded(), leased(waited=False, queue="other"))]),
    ("I14", [submitted(), leased(), ended("dead")]),
    ("I14", [submitted(), leased(), ended(status=None, retry_at=1.0)]),
    ("I14", [submitted(max_retries=0), leased(), _failed()]),
    ("I14", [submitted(), joined(left_the_line(), ended("dead", leased_at=None))]),
    ("I14", [handed_over(), left_the_line()]),
    ("I17", [submitted(), leased(), renewed(2.5 * LEASE_SECONDS)]),
    ("I20", [submitted(), left_the_line()]),
    ("I20", [submitted(), leased(), closed()]),
    ("I20", [recorded()]),
    ("I20", [submitted(), leased(), purged(waited=False)]),
]

# What clients wrote beside a life that is right: one job that succeeded in its first run.
RIGHT_LIFE = [submitted(), leased(), ended()]
RIGHT_LINES = [*submission(), *run_of()]
BROKEN_HISTORIES: list[tuple[str, list[Line]]] = [
    ("I1", submission(OTHER, call="lost")),
    ("I5", [told("failed", "acknowledged")]),
    ("I5", [told("succeeded", "lease_lost")]),
    ("I5", [told("failed", "acknowledged", forged=True)]),
    ("I5", [receipt("succeeded", refused="REFUSAL_REASON_LEASE_LOST")]),
    ("operator", [asked("cancel", job=JOB), answered("cancel")]),
    ("operator", [asked("retry", job=JOB), answered("retry")]),
    ("operator", [asked("change", job=JOB), answered("change")]),
    ("operator", [asked("replay", jobs=[JOB]), answered("replay", jobs=[[JOB, 2]])]),
    ("I15", [{"event": "queues_told", "queues": []}]),
    ("I17", [{"event": "plain_renewed", "lease": lease_text(), "forged": True, "kept": True}]),
    ("I18", [{"event": "read_back", "job": JOB, "status": 404}]),
    ("I19", [seen("succeeded", asked_after=1, after=2), seen("leased", asked_after=1, after=2)]),
    ("I19", [seen("dead", asked_after=1, after=2)]),
    ("I20", [asked("purge", queue="q"), answered("purge", purged=1)]),
    ("I23", [{"event": "secrets", "lines": 1, "found": ["server-0.log"]}]),
    ("I24", [{"event": "listed", "state": "dead", "jobs": [JOB]}]),
    ("I24", [{"event": "listed", "state": "succeeded", "jobs": [JOB, JOB]}]),
    ("receipt", [receipt("failed")]),
    ("receipt", [receipt("succeeded", lease_text(batch=2))]),
    ("credit", [{"event": "credit", "granted": 20, "received": 21}]),
    ("stop", [{"event": "hung", "what": "worker-0", "seconds": 40.0}]),
    (
        "retry",
        [
            asked("submit", call="f", jobs=[]),
            {"event": "fail", "call": "f", "what": "submit", "status": 500, "code": "internal"},
        ],
    ),
]

# Two jobs that are right, of one token or of two; and one that died, lived again, and succeeded.
TWIN = [submitted(OTHER, token=TOKENS[JOB]), leased(OTHER, batch=2), ended(job=OTHER, batch=2)]
SECOND = [submitted(OTHER), *TWIN[1:]]
RUNS = [*run_of(), *run_of(OTHER, 2)]
REPLAYED = [
    *(submitted(max_retries=0), leased(), ended("dead"), at(2, replayed()), leased(batch=2)),
    ended(batch=2, generation="2", deliveries="2"),
]
REPLAYED_RUNS = [{"event": "raised", "lease": lease_text()}, *run_of(JOB, 2)]
# Its lease ran out after a start that its worker knows nothing of.
CHARGED = [
    *(submitted(), leased(), renewed(LEASE_SECONDS, start=5)),
    joined(
        ended("expired", started_at=0.005, attempts="1", ended_at=11.0, retry_at=13.0, worker="w"),
        again(due_in=13.0, attempts="1"),
    ),
    leased(batch=2, after=13.0, attempts=1),
    ended(batch=2, attempts="2", deliveries="2", leased_at=13.0, started_at=13.0, ended_at=14.0),
]
# Its lease is noticed to be over after 5 s.
EXPIRED_LATE = [
    *(submitted(), leased(), _expired(1, late_seconds=5.0), leased(batch=2, after=20.0)),
    ended(batch=2, deliveries="2", leased_at=20.0, started_at=20.0, ended_at=21.0),
]

# What was committed does not go with what clients wrote.
BROKEN_RUNS: list[tuple[str, list[Transaction], list[Line]]] = [
    (
        "I1",
        RIGHT_LIFE,
        [*RIGHT_LINES, asked("submit", jobs=[[JOB, "another"]]), answered("submit", jobs=[[JOB, True]])],
    ),
    ("I2", RIGHT_LIFE, run_of()),
    ("I3", REPLAYED, [*submission(), *REPLAYED_RUNS]),
    ("I5", RIGHT_LIFE, submission()),
    ("I5", [submitted(max_retries=0), leased(), ended("dead")], submission()),
    ("I5", [submitted(), leased(), ended(worker="w", result=f'{{"lease": "{lease_text(batch=2)}"}}')], RIGHT_LINES),
    ("I7", CHARGED, [*submission(), *run_of(JOB, 2)]),
    ("I12", _keyed_life(ended_after=100 - UNSEEN_SECONDS_MAX - 1), [*RIGHT_LINES, *_merge()]),
    ("I13", [*RIGHT_LIFE, *TWIN], [*submission(), *RUNS]),
    ("I13", [*RIGHT_LIFE, *SECOND], [*submission(key="k"), *submission(OTHER, call="other", key="k"), *RUNS]),
    (
        "I14",
        [submitted(), joined(left_the_line(), ended("cancelled", leased_at=None, attempts="0", deliveries="0"))],
        submission(),
    ),
    ("I16", [submitted()], submission()),
    ("I16", EXPIRED_LATE, [*submission(), *run_of(JOB, 2)]),
    ("I20", [submitted(), purged()], submission()),
    ("operator", REPLAYED, [*submission(), *REPLAYED_RUNS, *_replay(), *_replay(call="another")]),
]


def test_a_life_that_is_right_breaks_nothing() -> None:
    findings = _played(RIGHT_LIFE)

    assert {} == findings.examples
    assert findings.checked["I4"] > 0


def test_a_life_that_begins_with_a_lease_breaks_nothing() -> None:
    findings = _played([handed_over(batch=2), ended(batch=2)])

    assert {} == findings.examples
    assert findings.checked["I14"] > 0


@pytest.mark.parametrize(("invariant", "life"), BROKEN_LIVES)
def test_a_life_that_breaks_an_invariant_is_seen(invariant: str, life: list[Transaction]) -> None:
    findings = _played(life)

    assert findings.broken[invariant] >= 1, findings.examples


def test_a_history_that_is_right_breaks_nothing(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, RIGHT_LIFE, RIGHT_LINES)

    assert {} == verdict.examples


@pytest.mark.parametrize(("invariant", "lines"), BROKEN_HISTORIES)
def test_a_history_that_breaks_an_invariant_is_seen(tmp_path: Path, invariant: str, lines: list[Line]) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, RIGHT_LIFE, [*RIGHT_LINES, *lines])

    assert {invariant} == verdict.broken.keys(), verdict.examples


@pytest.mark.parametrize(("invariant", "transactions", "lines"), BROKEN_RUNS)
def test_a_run_that_breaks_an_invariant_is_seen(
    tmp_path: Path, invariant: str, transactions: list[Transaction], lines: list[Line]
) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, transactions, lines)

    assert {invariant} == verdict.broken.keys(), verdict.examples


def test_for_each_invariant_there_is_something_that_breaks_it() -> None:
    examples = [name for name, *_ in (*BROKEN_LIVES, *BROKEN_HISTORIES, *BROKEN_RUNS)]

    assert set(INVARIANTS) - set(NOT_APPLICABLE) == set(examples)


def test_for_each_check_of_the_judge_there_is_something_that_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invariant has many checks, and one that nothing breaks may be one that holds whatever happens."""
    refusing: set[tuple[str, int]] = set()
    check = Findings.check

    def noted(findings: Findings, invariant: str, holds: bool, example: str) -> bool:
        if not holds:
            # Checks have no names of their own: the line that calls tells them apart.
            caller = sys._getframe(1)
            refusing.add((Path(caller.f_code.co_filename).name, caller.f_lineno))
        return check(findings, invariant, holds, example)

    monkeypatch.setattr(Findings, "check", noted)

    for _, life in BROKEN_LIVES:
        _played(life)
    for _, lines in BROKEN_HISTORIES:
        judged(tmp_path, NO_QUOTAS, RIGHT_LIFE, [*RIGHT_LINES, *lines])
    for _, transactions, lines in BROKEN_RUNS:
        judged(tmp_path, NO_QUOTAS, transactions, lines)
    for state in ("missing", "leased"):
        judged(tmp_path, NO_QUOTAS, [], [{"event": "final", "job": JOB, "state": state}])

    assert [] == [
        f"{name}, line {first}: {text}"
        for name, first, last, text in _checks_of_the_judge()
        if not any(name == file and first <= line <= last for file, line in refusing)
    ]


def _checks_of_the_judge() -> Iterator[tuple[str, int, int, str]]:
    """Yield the file, the first and the last line, and the text of each check."""
    for path in sorted(JUDGING.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "check":
                yield path.name, node.lineno, node.end_lineno or node.lineno, ast.unparse(node)


# Merging: a submission may be answered with a job that is there, and alive.


@pytest.mark.parametrize(
    "ended_after",
    [100 - UNSEEN_SECONDS_MAX + 1, 100.5, 102.0],
    ids=["before anybody could see it", "before the answer", "after the answer"],
)
def test_a_job_that_ended_when_it_had_been_asked_for_may_take_a_submission_in(
    tmp_path: Path, ended_after: float
) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, _keyed_life(ended_after), [*RIGHT_LINES, *_merge()])

    assert {} == verdict.examples


def test_a_submission_that_is_merged_between_two_lives_of_a_job_is_lost_work(tmp_path: Path) -> None:
    first = [submitted(unique_key="k", max_retries=0), leased(), ended("dead")]
    second = [at(200, transaction) for transaction in REPLAYED[3:]]
    replay = [{**line, "at": line["at"] + 198} for line in _replay()]

    verdict = judged(tmp_path, NO_QUOTAS, [*first, *second], [*submission(), *REPLAYED_RUNS, *replay, *_merge()])

    assert {"I12": 1} == verdict.broken, verdict.examples


# Observers: where a job is seen, it was between the request and the answer.


@pytest.mark.parametrize(
    ("state", "asked_after", "after", "broken"),
    [
        ("processing", 150, 151, {}),
        ("processing", 199.5, 200.5, {}),
        ("processing", 200 + UNSEEN_SECONDS_MAX - 1, 210, {}),
        ("processing", 200 + UNSEEN_SECONDS_MAX + 1, 210, {"I19": 1}),
        ("processing", 98, 99, {"I19": 1}),
        ("succeeded", 199.5, 200.5, {}),
        ("succeeded", 198, 199, {"I19": 1}),
    ],
)
def test_a_job_is_seen_where_it_was(
    tmp_path: Path, state: str, asked_after: float, after: float, broken: dict[str, int]
) -> None:
    life = [submitted(), at(100, leased()), at(200, ended())]

    verdict = judged(tmp_path, NO_QUOTAS, life, [*RIGHT_LINES, seen(state, asked_after=asked_after, after=after)])

    assert broken == verdict.broken, verdict.examples


# Operators: what is acknowledged is in the oracle.


def test_a_replay_that_opened_another_life_breaks_nothing(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, REPLAYED, [*submission(), *REPLAYED_RUNS, *_replay()])

    assert {} == verdict.examples


@pytest.mark.parametrize(
    ("hurried_after", "due_in", "broken"),
    [(3.5, 3.5, {}), (2.0, 2.0, {"operator": 1}), (3.5, 60.0, {"operator": 1})],
    ids=["in time", "before it was asked for", "to a later time"],
)
def test_a_retry_that_is_acknowledged_makes_its_job_due(
    tmp_path: Path, hurried_after: float, due_in: float, broken: dict[str, int]
) -> None:
    retried = at(hurried_after, rescheduled(due_in=due_in))
    life = [submitted(), retried, leased(after=60.0), ended(leased_at=60.0, started_at=60.0, ended_at=61.0)]
    lines = [*RIGHT_LINES, asked("retry", after=3, job=JOB), answered("retry", after=4)]

    verdict = judged(tmp_path, NO_QUOTAS, life, lines)

    assert broken == verdict.broken, verdict.examples


# Purges.


@pytest.mark.parametrize(
    ("count", "is_unsure", "broken"),
    [(1, False, {}), (0, True, {}), (0, False, {"I20": 1}), (2, True, {"I20": 1})],
    ids=["as told", "by a try without an answer", "more than told", "less than told"],
)
def test_as_many_jobs_are_gone_as_purges_were_told(
    tmp_path: Path, count: int, is_unsure: bool, broken: dict[str, int]
) -> None:
    unsure = [{"event": "unknown", "call": "p", "what": "purge"}] if is_unsure else []
    purge = [asked("purge", call="p", queue="q"), *unsure, answered("purge", call="p", purged=count)]

    verdict = judged(tmp_path, NO_QUOTAS, [submitted(), purged()], [*submission(), *purge])

    assert (broken, 0) == (verdict.broken, verdict.counts["lost"]), verdict.examples


def test_what_is_left_of_a_job_that_is_purged_may_be_emptied(tmp_path: Path) -> None:
    """Its outcome stays for as long as others hold leases of the same batch."""
    life = [submitted(), leased(), _failed(), joined(purged(), overwritten())]
    purge = [asked("purge", queue="q"), answered("purge", purged=1)]

    verdict = judged(tmp_path, NO_QUOTAS, life, [*submission(), {"event": "raised", "lease": lease_text()}, *purge])

    assert {} == verdict.examples


# Receipts.


def test_a_receipt_for_a_report_that_counts_breaks_nothing(tmp_path: Path) -> None:
    verdict = judged(tmp_path, NO_QUOTAS, RIGHT_LIFE, [*RIGHT_LINES, receipt("succeeded")])

    assert ({}, 1) == (verdict.examples, verdict.checked["receipt"])


def test_a_report_that_is_refused_since_it_came_before_breaks_nothing(tmp_path: Path) -> None:
    again_the_same = receipt("succeeded", refused="REFUSAL_REASON_ALREADY_SETTLED_SAME")

    verdict = judged(tmp_path, NO_QUOTAS, RIGHT_LIFE, [*RIGHT_LINES, again_the_same])

    assert {} == verdict.examples


def _played(transactions: Sequence[Transaction]) -> Findings:
    findings = Findings()
    Fold(findings).play(transactions)
    return findings
