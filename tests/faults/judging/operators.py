"""What operators were told: every cancel, retry, replay, change and purge that was acknowledged is in the oracle."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tests.faults.judging.fold import CLOCK_SECONDS, Findings, Fold

VERBS = ("cancel", "retry", "change", "replay", "purge")
# A move that is not legal now is an answer too.
REFUSABLE = frozenset({"cancel", "retry", "change"})


@dataclass(slots=True)
class Call:
    """A request that was answered with success: between these two moments it was decided, and committed."""

    invoked_at: float
    answered_at: float

    def holds(self, moment: float) -> bool:
        """Say whether the commit of a moment may be this call's."""
        return self.invoked_at - CLOCK_SECONDS <= moment <= self.answered_at + CLOCK_SECONDS


class Operators:
    """Reads what operators did and were told, and holds it against the oracle.

    Attributes:
        asked: The jobs of each verb, whatever came of it; of `purge` the queues.
    """

    def __init__(self, findings: Findings, fold: Fold) -> None:
        """Take where to note what is found, and the oracle, which is played already when answers are read."""
        self._findings = findings
        self._fold = fold
        self.asked: dict[str, set[str]] = defaultdict(set)
        self._replays_told: Counter[str] = Counter()
        self._purged_told: Counter[str] = Counter()
        self._purges_open: Counter[str] = Counter()
        self._queues_unsure: set[str] = set()

    def on_invoke(self, invoke: dict[str, Any]) -> None:
        """Take that somebody asks for something."""
        what = invoke["what"]
        if what == "purge":
            self.asked[what].add(invoke["queue"])
            self._purges_open[invoke["queue"]] += 1
        elif what == "replay":
            self.asked[what].update(invoke["jobs"])
        elif what in VERBS:
            self.asked[what].add(invoke["job"])

    def on_unsure(self, invoke: dict[str, Any]) -> None:
        """Take that a try had no clear answer: what it did is not in the answer of the next one."""
        if invoke.get("what") == "purge":
            self._queues_unsure.add(invoke["queue"])

    def on_ok(self, invoke: dict[str, Any], line: dict[str, Any]) -> None:
        """Take an answer, and look for what it says."""
        what, call = line["what"], Call(invoke["at"], line["at"])
        if what == "cancel":
            self._check_cancel(invoke["job"])
        elif what == "retry":
            self._check_retry(invoke["job"], call)
        elif what == "change":
            self._check_change(invoke["job"], call)
        elif what == "replay":
            for job_id, generation in line["jobs"]:
                self._check_replay(job_id, generation, call)
        elif what == "purge":
            self._purges_open[invoke["queue"]] -= 1
            self._purged_told[invoke["queue"]] += line["purged"]

    def check_end(self) -> None:
        """Look at what only all answers together can show."""
        for job_id, told in self._replays_told.items():
            lives = len(self._fold.revived[job_id])
            self._findings.check(
                "operator",
                told <= lives,
                f"job {job_id} was replayed {told} times, say the answers, and lived again {lives}",
            )
        self._check_purges()

    def _check_cancel(self, job_id: str) -> None:
        job = self._fold.jobs.get(job_id)
        is_cancelled = job is not None and job.ended == "cancelled"
        self._findings.check("operator", is_cancelled, f"job {job_id} was cancelled, says its answer")

    def _check_retry(self, job_id: str, call: Call) -> None:
        """A retry makes a job that waits for its time due at once, or gives a dead one another life."""
        hurried = [at for at, run_at in self._fold.rescheduled[job_id] if run_at <= at + CLOCK_SECONDS]
        is_done = any(call.holds(at) for at in (*hurried, *self._fold.revived[job_id]))
        self._findings.check("operator", is_done, f"job {job_id} was retried, says its answer, and nothing made it run")

    def _check_change(self, job_id: str, call: Call) -> None:
        is_done = any(call.holds(at) for at, _ in self._fold.rescheduled[job_id])
        self._findings.check("operator", is_done, f"job {job_id} was changed, says its answer, and is as it was")

    def _check_replay(self, job_id: str, generation: int, call: Call) -> None:
        self._replays_told[job_id] += 1
        is_done = generation > 1 and any(call.holds(at) for at in self._fold.revived[job_id])
        self._findings.check("operator", is_done, f"job {job_id} was replayed, says its answer, and did not live again")

    def _check_purges(self) -> None:
        """Every job that is gone was in a queue that somebody purged, and the answers say how many those were."""
        gone = Counter(job.submission.queue for job in self._fold.purged.values())
        for job_id, job in self._fold.purged.items():
            is_asked = job.submission.queue in self.asked["purge"]
            self._findings.check("I20", is_asked, f"job {job_id} is gone, and nobody purged {job.submission.queue}")
        for queue in self.asked["purge"]:
            told, is_unsure = self._purged_told[queue], queue in self._queues_unsure or self._purges_open[queue] > 0
            fits = told <= gone[queue] if is_unsure else told == gone[queue]
            self._findings.check("I20", fits, f"{gone[queue]} jobs of {queue} are gone, and the answers say {told}")
