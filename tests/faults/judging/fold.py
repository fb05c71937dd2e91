"""Folds the oracle: plays every committed row version in order and checks, transaction by transaction, what must hold.

A job is in exactly one place: waiting, a member of one live lease, or ended.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.judging import tables
from tests.faults.judging.pgoutput import Change, Transaction
from tests.faults.judging.tables import Lease, Outcome, Submission, Waiting

CLOCK_SECONDS = 0.002
# How long a submission's commit may have been held up by locks and slow disks.
HELD_UP_SECONDS_MAX = 60.0
EXAMPLES_MAX = 5
SILENT_DELIVERIES_SPARE = 10
BACKOFF_DEFAULT = {"kind": "exponential", "base_seconds": 2.0, "max_seconds": 3600.0}
EXPONENT_MAX = 62
# Not over yet.
FOREVER = float("inf")


class Findings:
    """How often each invariant was checked, and where it did not hold."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.checked: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def check(self, invariant: str, holds: bool, example: str) -> bool:
        """Count a check; keep the first examples of what did not hold."""
        self.checked[invariant] += 1
        if not holds:
            self.broken[invariant] += 1
            if len(self.examples[invariant]) < EXAMPLES_MAX:
                self.examples[invariant].append(example)
        return holds


@dataclass(slots=True)
class Job:
    """What is known of a job."""

    submission: Submission
    waiting: Waiting | None = None
    lease: Lease | None = None
    ended: str | None = None
    generation: int = 1
    attempts: int = 0
    deliveries: int = 0
    successes: int = 0
    silent: int = 0
    last_outcome: Outcome | None = None

    @property
    def ended_at(self) -> float | None:
        """When its life ended; None while it lives."""
        return self.last_outcome.ended_at if self.ended is not None and self.last_outcome is not None else None

    @property
    def places(self) -> int:
        """In how many places it is; one is right."""
        return (self.waiting is not None) + (self.lease is not None) + (self.ended is not None)


@dataclass(slots=True)
class Reclaim:
    """A lease that ran out: when it should have ended, when it did, and when its job was leased again."""

    expires_at: float
    ended_at: float
    worker: str
    retry_at: float | None
    leased_again_at: float | None = None


@dataclass(slots=True)
class Life:
    """From when to when a job lived, by the moments of the commits that say so."""

    began_at: float
    ended_at: float = FOREVER


@dataclass(slots=True)
class _Moved:
    """What one transaction did to one job."""

    is_new: bool = False
    removed: Job | None = None
    left_waiting: Waiting | None = None
    outcome: Outcome | None = None
    entered_waiting: Waiting | None = None
    entered_lease: Lease | None = None


@dataclass(slots=True)
class Fold:
    """The state of the queue, as the oracle has it.

    Attributes:
        lives_of_keyed: The lives of each job with a unique key.
        rescheduled: When the row of each waiting job was changed, and the time that it was given.
        revived: When each job began a further life.
        purged: Jobs that were removed, as they were before.
        watched: Jobs that somebody looked at: only of these the path is kept.
        paths: Where each of them was, from which commit on, and in which life.
        doubled_outcomes: Second outcomes of one lease, and second successes of one life.
    """

    findings: Findings
    jobs: dict[str, Job] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    by_token: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    by_unique_key: dict[str, str] = field(default_factory=dict)
    lives_of_keyed: dict[str, list[Life]] = field(default_factory=lambda: defaultdict(list))
    rescheduled: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    revived: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    purged: dict[str, Job] = field(default_factory=dict)
    watched: set[str] = field(default_factory=set)
    paths: dict[str, list[tuple[float, str, int]]] = field(default_factory=lambda: defaultdict(list))
    reclaims: list[Reclaim] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    late: int = 0
    handed_over: int = 0
    doubled_outcomes: int = 0
    transactions: int = 0
    last_commit_at: float = 0.0
    _open_reclaims: dict[str, Reclaim] = field(default_factory=dict)

    def play(self, transactions: Iterable[Transaction]) -> None:
        """Play transactions in commit order."""
        for transaction in transactions:
            self.transactions += 1
            self.last_commit_at = transaction.committed_at
            self._play_one(transaction)

    def _play_one(self, transaction: Transaction) -> None:
        moved: dict[str, _Moved] = defaultdict(_Moved)
        created: list[Lease] = []
        closed: list[str] = []
        for change in sorted(transaction.changes, key=_order):
            self._apply(change, moved, created, closed)
        for lease in created:
            self._check_order(lease, moved)
        for job_id, move in moved.items():
            self._check_move(job_id, move, transaction)
        for batch in closed:
            self._check_closed(batch)

    # Rows.

    def _apply(self, change: Change, moved: dict[str, _Moved], created: list[Lease], closed: list[str]) -> None:
        table, verb, row = change.table, change.verb, change.row
        if table == "jobs":
            self._apply_job(change, moved)
        elif table == "ready":
            self._apply_waiting(change, moved)
        elif table == "leases":
            self._apply_lease(change, moved, created, closed)
        elif table == "outcomes" and verb != "delete":
            self._apply_outcome(verb, tables.outcome(row), moved)

    def _apply_job(self, change: Change, moved: dict[str, _Moved]) -> None:
        if change.verb == "delete":
            job_id = change.row["id"] or ""
            moved[job_id].removed = self.jobs.pop(job_id, None)
            return
        submission = tables.submission(change.row)
        if change.verb == "update":
            # An operator changed it; where it is does not change.
            self.jobs[submission.job].submission = submission
        else:
            self.findings.check("I3", submission.job not in self.jobs, f"job {submission.job} was recorded twice")
            self.jobs[submission.job] = Job(submission)
            moved[submission.job].is_new = True
            if submission.token:
                self.by_token[submission.token].append(submission.job)

    def _apply_waiting(self, change: Change, moved: dict[str, _Moved]) -> None:
        job_id = change.row["job_id"] or ""
        job = self.jobs.get(job_id)
        if not self.findings.check("I2", job is not None, f"job {job_id} waits and was never recorded"):
            return
        assert job is not None
        if change.verb == "delete":
            held = self.findings.check("I14", job.waiting is not None, f"job {job_id} left the line and was not in it")
            moved[job_id].left_waiting = job.waiting if held else None
            job.waiting = None
        elif change.verb == "insert":
            moved[job_id].entered_waiting = tables.waiting(change.row)
        else:
            job.waiting = tables.waiting(change.row)
            self.rescheduled[job_id].append((self.last_commit_at, job.waiting.run_at))

    def _apply_lease(self, change: Change, moved: dict[str, _Moved], created: list[Lease], closed: list[str]) -> None:
        if change.verb == "delete":
            closed.append(change.row["batch"] or "")
        elif change.verb == "insert":
            lease = tables.lease(change.row)
            self.leases[lease.batch] = lease
            created.append(lease)
            for job_id in lease.jobs:
                twice = moved[job_id].entered_lease is not None
                self.findings.check("I6", not twice, f"job {job_id} was leased twice in one statement")
                moved[job_id].entered_lease = lease
        else:
            self._renew(*tables.renewed(change.row))

    def _renew(self, batch: str, expires_at: float, starts: list[int] | None) -> None:
        lease = self.leases.get(batch)
        if lease is None:
            return
        if expires_at != lease.expires_at:
            # A renewal sets the end to its own moment and the time to live: so that moment is known.
            renewed_at = expires_at - lease.ttl_granted
            self.findings.check(
                "I17",
                expires_at > lease.expires_at and renewed_at < lease.expires_at + CLOCK_SECONDS,
                f"lease {batch}, over at {lease.expires_at:.3f}, was renewed at {renewed_at:.3f} to {expires_at:.3f}",
            )
            lease.expires_at = expires_at
        if starts is not None:
            for before, after in zip(lease.starts, starts, strict=True):
                # A start that is reported again may turn out to be a little earlier; it is never later, never undone.
                stays = before in (-1, after) or 0 <= after < before
                self.findings.check("I7", stays, f"a start of lease {batch} moved from {before} to {after}")
            lease.starts = starts

    def _apply_outcome(self, verb: str, outcome: Outcome, moved: dict[str, _Moved]) -> None:
        key = (outcome.job, outcome.batch)
        if verb == "update" and outcome.job in moved and moved[outcome.job].removed is not None:
            # What is left of a job that was purged: who reports this lease again is told that it is over.
            pass
        elif verb == "update":
            before = self.outcomes.get(key)
            is_replay = before is not None and before.status == "dead" and before.replayed_at is None
            self.findings.check(
                "I3", is_replay and outcome.replayed_at is not None, f"the outcome {key} was overwritten"
            )
        else:
            is_first = self.findings.check("I4", key not in self.outcomes, f"lease {key} has two outcomes")
            self.doubled_outcomes += not is_first
            moved[outcome.job].outcome = outcome
            self.kinds[outcome.kind] += 1
            self.late += outcome.is_late
        if verb == "update" or key not in self.outcomes:
            self.outcomes[key] = outcome

    # Jobs.

    def _check_move(self, job_id: str, move: _Moved, transaction: Transaction) -> None:
        if move.removed is not None:
            self._remove(job_id, move.removed, move)
            return
        job = self.jobs.get(job_id)
        if not self.findings.check("I2", job is not None, f"job {job_id} moves and was never recorded"):
            return
        assert job is not None
        if move.outcome is not None:
            self._end_lease(job, move)
        if move.entered_waiting is not None:
            if job.last_outcome is None:
                self._check_delay(job, move.entered_waiting, transaction.committed_at)
            self._enter_waiting(job, move.entered_waiting, move.outcome)
        if move.entered_lease is not None:
            self._enter_lease(job, move.entered_lease, move)
        elif move.left_waiting is not None and move.outcome is None and move.entered_waiting is None:
            self.findings.check("I20", False, f"job {job_id} left the line and went nowhere")
        self.findings.check(
            "I20",
            job.places == 1,
            f"job {job_id} is in {job.places} places after the transaction at {transaction.committed_at:.3f}",
        )
        self._check_unique(job_id, job)
        if job_id in self.watched:
            self.paths[job_id].append((self.last_commit_at, place_of(job), job.generation))

    def _remove(self, job_id: str, job: Job, move: _Moved) -> None:
        """An operator may remove what waits and what is over, whole; never what runs."""
        is_idle = move.left_waiting is not None or job.ended is not None
        is_gone = job.waiting is None and job.lease is None and move.entered_waiting is None
        self.findings.check("I20", is_idle and is_gone, f"job {job_id} was removed while it was {where(job)}")
        self.purged[job_id] = job
        self._free_unique(job_id, job)

    def _end_lease(self, job: Job, move: _Moved) -> None:
        outcome = move.outcome
        assert outcome is not None
        check, job_id = self.findings.check, outcome.job
        if move.left_waiting is not None and outcome.leased_at is None:
            check("I14", outcome.status == "cancelled", f"waiting job {job_id} ended as {outcome.kind}")
            charged = 0
        else:
            lease = job.lease
            is_current = lease is not None and lease.batch == outcome.batch
            check(
                "I4",
                is_current,
                f"job {job_id}: {outcome.kind} of lease {outcome.batch} is accepted, and that was not current",
            )
            charged = 1
            if lease is not None and is_current:
                self._check_time(lease, outcome)
                if outcome.kind in ("released", "snoozed"):
                    charged = 0
                elif outcome.kind == "expired":
                    charged = int(lease.starts[lease.jobs.index(job_id)] >= 0)
                elif outcome.kind == "cancelled":
                    charged = int(outcome.started_at is not None)
            job.lease = None
        expected = job.attempts + charged
        check(
            "I7",
            outcome.attempts == expected,
            f"job {job_id}: attempts {outcome.attempts} after {outcome.kind}, expected {expected}",
        )
        check("I7", outcome.attempts <= job.submission.max_retries + 1, f"job {job_id} ran {outcome.attempts} times")
        check(
            "I7",
            outcome.deliveries == job.deliveries,
            f"job {job_id}: deliveries {outcome.deliveries}, expected {job.deliveries}",
        )
        check(
            "I3",
            outcome.generation == job.generation,
            f"job {job_id}: outcome of life {outcome.generation} in life {job.generation}",
        )
        check("I3", job.ended is None, f"job {job_id} ended as {job.ended} and again as {outcome.kind}")
        job.attempts = outcome.attempts
        job.last_outcome = outcome
        job.silent = job.silent + 1 if outcome.kind == "expired" and outcome.started_at is None else 0
        bound = job.submission.max_retries + SILENT_DELIVERIES_SPARE
        check("I7", job.silent <= bound, f"job {job_id} was delivered {job.silent} times without a word")
        if outcome.kind == "succeeded":
            job.successes += 1
            is_first = check("I4", job.successes == 1, f"job {job_id} succeeded {job.successes} times in one life")
            self.doubled_outcomes += not is_first
        self._check_ending(job, outcome)

    def _check_time(self, lease: Lease, outcome: Outcome) -> None:
        is_over = outcome.ended_at > lease.expires_at
        if outcome.kind == "expired" and outcome.error_kind == "Timeout":
            # The run was past its own timeout; its lease lived on.
            return
        if outcome.kind == "expired":
            self.findings.check(
                "I4",
                outcome.ended_at >= lease.expires_at - CLOCK_SECONDS,
                f"job {outcome.job} expired {lease.expires_at - outcome.ended_at:.3f} s before its lease ended",
            )
            reclaim = Reclaim(lease.expires_at, outcome.ended_at, outcome.worker, outcome.retry_at)
            self.reclaims.append(reclaim)
            self._open_reclaims[outcome.job] = reclaim
        elif outcome.kind in ("succeeded", "failed") and abs(outcome.ended_at - lease.expires_at) > CLOCK_SECONDS:
            self.findings.check(
                "I5", outcome.is_late == is_over, f"job {outcome.job}: late is {outcome.is_late}, over is {is_over}"
            )

    def _check_ending(self, job: Job, outcome: Outcome) -> None:
        check, job_id = self.findings.check, outcome.job
        spent = outcome.attempts > job.submission.max_retries
        if outcome.kind in ("succeeded", "cancelled"):
            check("I14", outcome.status == outcome.kind, f"job {job_id}: {outcome.kind} led to {outcome.status}")
        elif outcome.kind in ("failed", "expired") and spent and outcome.started_at is not None:
            check("I14", outcome.status == "dead", f"job {job_id} has no run left and is {outcome.status}")
        elif outcome.kind in ("failed", "expired") and "d" not in job.submission.plan:
            gave_up = outcome.reason == "delivered_too_often"
            check("I14", gave_up or outcome.status is None, f"job {job_id} has runs left and is {outcome.status}")
        if outcome.status is None:
            self._check_retry(job, outcome)
        else:
            job.ended = outcome.status

    def _check_retry(self, job: Job, outcome: Outcome) -> None:
        assert outcome.retry_at is not None, outcome
        delay = outcome.retry_at - outcome.ended_at
        if outcome.kind == "expired":
            expected = delay_seconds(job.submission.backoff, outcome.attempts) if outcome.started_at else 0.0
        elif outcome.kind == "failed" and job.submission.type != "plain" and "r" not in job.submission.plan:
            expected = delay_seconds(job.submission.backoff, outcome.attempts)
        else:
            return
        self.findings.check(
            "I10",
            abs(delay - expected) < CLOCK_SECONDS,
            f"job {outcome.job} waits {delay:.3f} s after run {outcome.attempts} {outcome.kind}, not {expected:.3f}",
        )

    def _enter_waiting(self, job: Job, waiting: Waiting, outcome: Outcome | None) -> None:
        check = self.findings.check
        was_dead = job.ended == "dead" and outcome is None
        if was_dead:
            last = job.last_outcome
            replayed = last is not None and self.outcomes[last.job, last.batch].replayed_at is not None
            check(
                "I3",
                waiting.generation == job.generation + 1 and replayed,
                f"job {waiting.job} lives again without a replay",
            )
            self.revived[waiting.job].append(self.last_commit_at)
            job.ended, job.generation = None, waiting.generation
            job.attempts = job.successes = job.silent = 0
        check("I3", job.ended is None, f"job {waiting.job} ended as {job.ended} and waits again")
        check("I6", job.waiting is None, f"job {waiting.job} waits twice")
        check(
            "I3",
            waiting.generation == job.generation,
            f"job {waiting.job} waits in life {waiting.generation} of {job.generation}",
        )
        check(
            "I7",
            waiting.attempts == job.attempts,
            f"job {waiting.job} waits with {waiting.attempts} attempts, expected {job.attempts}",
        )
        check(
            "I7", waiting.deliveries == job.deliveries, f"job {waiting.job} waits with {waiting.deliveries} deliveries"
        )
        if (
            outcome is not None
            and outcome.retry_at is not None
            and outcome.started_at is not None
            and outcome.kind in ("failed", "expired")
        ):
            check(
                "I10",
                abs(waiting.run_at - outcome.retry_at) < CLOCK_SECONDS,
                f"job {waiting.job} waits until another time than its outcome says",
            )
        job.waiting = waiting

    def _enter_lease(self, job: Job, lease: Lease, move: _Moved) -> None:
        check, job_id, left = self.findings.check, job.submission.job, move.left_waiting
        # A worker that waits is given a new job by the commit that records it.
        check("I14", left is not None or move.is_new, f"job {job_id} was leased and was neither waiting nor new")
        check(
            "I6", job.lease is None, f"job {job_id} was leased while its lease {job.lease and job.lease.batch} is live"
        )
        if left is not None:
            check(
                "I8",
                lease.leased_at >= left.run_at - CLOCK_SECONDS,
                f"job {job_id} was leased {left.run_at - lease.leased_at:.3f} s early",
            )
            check("I14", lease.queue == left.queue, f"job {job_id} of queue {left.queue} was leased from {lease.queue}")
            check(
                "I7",
                lease.attempts[lease.jobs.index(job_id)] == left.attempts,
                f"job {job_id} lost count of its attempts",
            )
        elif move.is_new:
            self.handed_over += 1
            delay, queue = job.submission.delay, job.submission.queue
            check("I8", delay == 0, f"job {job_id} was leased when it was recorded, its delay is {delay} s")
            check("I14", lease.queue == queue, f"new job {job_id} of queue {queue} was leased from {lease.queue}")
            check("I7", lease.attempts[lease.jobs.index(job_id)] == 0, f"new job {job_id} was leased with attempts")
        job.lease = lease
        job.deliveries += 1
        reclaim = self._open_reclaims.pop(job_id, None)
        if reclaim is not None:
            reclaim.leased_again_at = lease.leased_at

    def _check_delay(self, job: Job, waiting: Waiting, committed_at: float) -> None:
        """A first run is due when its delay has passed, by PostgreSQL's clock; a commit may be held up for a while."""
        waits = waiting.run_at - committed_at
        right = job.submission.delay - HELD_UP_SECONDS_MAX <= waits <= job.submission.delay + CLOCK_SECONDS
        self.findings.check(
            "I8", right, f"job {waiting.job} is due in {waits:.0f} s, its delay is {job.submission.delay} s"
        )

    def _check_order(self, lease: Lease, moved: dict[str, _Moved]) -> None:
        line = [left.place_in_line for job_id in lease.jobs if (left := moved[job_id].left_waiting) is not None]
        self.findings.check("I9", line == sorted(line), f"lease {lease.batch} is not in order")

    def _check_closed(self, batch: str) -> None:
        lease = self.leases.pop(batch, None)
        if lease is None:
            return
        for job_id in lease.jobs:
            job = self.jobs.get(job_id)
            left = job is not None and job.lease is lease
            self.findings.check("I20", not left, f"lease {batch} was removed while job {job_id} was in it")

    def _check_unique(self, job_id: str, job: Job) -> None:
        key = job.submission.unique_key
        if key is None:
            return
        if job.ended is not None:
            self._free_unique(job_id, job)
            return
        holder = self.by_unique_key.get(key)
        self.findings.check(
            "I12", holder in (None, job_id), f"jobs {holder} and {job_id} live with the unique key {key}"
        )
        self.by_unique_key[key] = job_id
        lives = self.lives_of_keyed[job_id]
        if not lives or lives[-1].ended_at != FOREVER:
            lives.append(Life(self.last_commit_at))

    def _free_unique(self, job_id: str, job: Job) -> None:
        key = job.submission.unique_key
        if key is not None and self.by_unique_key.get(key) == job_id:
            del self.by_unique_key[key]
        lives = self.lives_of_keyed.get(job_id)
        if lives and lives[-1].ended_at == FOREVER:
            lives[-1].ended_at = self.last_commit_at


def place_of(job: Job) -> str:
    """Return where a job is: `waiting`, `held`, or how it ended."""
    return job.ended or ("held" if job.lease is not None else "waiting")


def where(job: Job) -> str:
    """Say in words where a job is."""
    if job.ended is not None:
        return f"{job.ended}"
    if job.waiting is not None:
        return f"waiting until {job.waiting.run_at:.3f}"
    if job.lease is not None:
        return f"leased by {job.lease.worker} until {job.lease.expires_at:.3f}"
    return "nowhere"


def delay_seconds(policy: dict[str, object] | None, attempts: int) -> float:
    """Return the documented back-off after so many runs."""
    rule = {**BACKOFF_DEFAULT, **(policy or {})}
    base, longest = float(rule["base_seconds"]), float(rule["max_seconds"])  # type: ignore[arg-type]
    if rule["kind"] == "fixed":
        return min(base, longest)
    if rule["kind"] == "linear":
        return min(base * attempts, longest)
    return min(base * 2.0 ** (min(attempts, EXPONENT_MAX) - 1), longest)


# Within one statement the order of row versions says nothing: what is left comes before what is entered.
_TABLE_ORDER = {
    ("jobs", "insert"): 0,
    ("leases", "update"): 1,
    ("ready", "delete"): 2,
    ("jobs", "delete"): 3,
    ("outcomes", "insert"): 4,
    ("outcomes", "update"): 4,
}


def _order(change: Change) -> int:
    return _TABLE_ORDER.get((change.table, change.verb), 5)
