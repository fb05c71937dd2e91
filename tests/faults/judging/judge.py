"""The judge: holds what clients were told against what PostgreSQL committed, and says passed, failed or unknown.

    python -m tests.faults.judging.judge FOLDER

A folder holds `*.jsonl` histories (clients, workers, faults) and, if the database could be watched, `oracle.bin`.
"""

import bisect
import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.judging.fold import CLOCK_SECONDS, EXAMPLES_MAX, Findings, Fold, Job, where
from tests.faults.judging.operators import REFUSABLE, Operators
from tests.faults.judging.pgoutput import read_transactions
from tests.faults.judging.recovery import Recovery
from tests.faults.judging.tables import lease_of

TERMINAL = frozenset({"succeeded", "dead", "cancelled"})
PLACES = {"pending": "waiting", "failed": "waiting", "leased": "held", "processing": "held"}
RECLAIM_SECONDS_MAX = 2.0
# After such a fault the servers reconnect; only then is expiry measured.
SETTLING_SECONDS = 3.0
FAULT_SECONDS_MAX = 600.0
# Clients write at least every 5.5 s: they give up a request after 4 s and pause for 1.5 s. If none of them writes for
# longer, nothing on the machine ran, the clients included, and nothing was late by the fault of what is judged.
SILENCE_SECONDS = 7
# A commit notes its moment before others see what it did; its backend may be frozen between the two, for 2.5 s by
# `pg.stop`, and for a while on a busy machine. Until then what was before is what everybody sees.
UNSEEN_SECONDS_MAX = 5.0

INVARIANTS = {
    "I1": "every accepted submission exists",
    "I2": "every job has a submission",
    "I3": "one terminal transition per life; replay opens a new one",
    "I4": "an accepted outcome's lease was current; one per lease, one success per life",
    "I5": "a refused report changed nothing, an accepted one did",
    "I6": "leases of a job never overlap",
    "I7": "attempts = starts <= max_retries + 1, never falling; deliveries bounded",
    "I8": "leased at or after run_at",
    "I9": "one lease reply is in order",
    "I10": "the next run_at follows the formula",
    "I11": "one job per schedule tick",
    "I12": "one live job per unique key",
    "I13": "one idempotency key, one id",
    "I14": "only legal moves",
    "I15": "after quiet, gauges equal counts",
    "I16": "after healing every runnable job ended; nothing leased past expiry + 2 s",
    "I17": "a lease grows only by its holder, while it lives",
    "I18": "GET after 201 finds the job on any node",
    "I19": "each observer saw a path of the state graph",
    "I20": "conservation: a job is in exactly one place",
    "I21": "one audit entry per admin change",
    "I22": "modes C and D: one effect exactly when succeeded",
    "I23": "no secret in any output",
    "I24": "pages have no gap and no double",
    "operator": "what operators were told was done, was done",
    "receipt": "a report with a receipt decided its job",
    "credit": "no stream is sent more jobs than its credit",
    "stop": "who is told to stop does",
    "retry": "no error beyond the documented retry rule",
}
NOT_APPLICABLE = {
    "I11": "schedules are not part of this product yet",
    "I21": "audit entries are not part of this product yet",
    "I22": "no handler of the run writes in the jobs' database; tests/worker/test_sql.py has a ledger",
}
# What is looked at once, at the end, or with every tenth fault only.
SELDOM = {"I12": 50, "I15": 8, "I24": 8, "operator": 50, "credit": 1, "stop": 10}
# Why a worker's report was refused: somebody or something else had decided. The same report again is no such reason.
NOT_DECIDED = frozenset({"REFUSAL_REASON_LEASE_LOST", "REFUSAL_REASON_ALREADY_SETTLED_OTHER"})
OUTSIDE_ONLY = "only the database's own log can show it, and this run had none"


@dataclass(slots=True)
class Quotas:
    """How much must have happened before a run may be called passed.

    Attributes:
        each_kind: Effective faults of each kind that was asked for and that this machine can do.
        checks: How often each invariant that this product has must have been put to the test; `SELDOM` has exceptions.
    """

    reclaims: int = 100
    refused: int = 50
    ambiguous: int = 20
    restarts: int = 20
    jobs: int = 10_000
    handed_over: int = 1_000
    faults: int = 20
    each_kind: int = 1
    checks: int = 300


@dataclass(slots=True)
class Verdict:
    """What came out.

    Attributes:
        why: What keeps it from being passed; and which kinds of faults this machine or this run cannot do.
        recovery: How long each thing that recovers took, in seconds.
        back_after: The same for each kind of fault, from its end to the next accepted submission.
        left_out: Kinds that were asked for and cannot be done here, each with why.
    """

    verdict: str = "unknown"
    why: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    recovery: dict[str, dict[str, float]] = field(default_factory=dict)
    back_after: dict[str, dict[str, float]] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Judge:
    """Judges one folder."""

    def __init__(self, folder: Path, quotas: Quotas, *, with_limits: bool = False) -> None:
        """Take where the histories are, what must have happened, and whether slow recovery is a failure."""
        self.folder = folder
        self.quotas = quotas
        self.with_limits = with_limits
        self.findings = Findings()
        self.fold = Fold(self.findings)
        self.has_oracle = (folder / "oracle.bin").exists()
        self.counts: dict[str, int] = defaultdict(int)
        self.tokens: set[str] = set()
        self.tokens_of_unique_keys: set[str] = set()
        self.answered: dict[str, dict[str, Any]] = {}
        self.handled: dict[str, set[str]] = {"started": set(), "returned": set(), "raised": set()}
        self.operators = Operators(self.findings, self.fold)
        self.invoked: dict[str, dict[str, Any]] = {}
        self.kinds_asked: list[str] = []
        self.kinds_left_out: dict[str, str] = {}
        self.faults: list[dict[str, Any]] = []
        self.job_of_key: dict[str, str] = {}
        self.phases: dict[str, float] = {}
        self.seconds_with_clients: set[int] = set()
        self.quiet_reclaims: list[float] = []
        self.oks: list[tuple[float, int]] = []
        self.returns: list[tuple[str, float]] = []

    def judge(self) -> Verdict:
        """Read everything and decide."""
        if self.has_oracle:
            self.fold.watched = self._observed()
            self.fold.play(read_transactions(self.folder / "oracle.bin"))
        for path in sorted(self.folder.glob("*.jsonl")):
            self._read(path)
        if self.has_oracle:
            self._check_submissions()
            self._check_outcomes()
            self.operators.check_end()
            self._check_end()
        self._check_reclaims()
        return self._verdict()

    # Histories.

    def _observed(self) -> set[str]:
        """Return the jobs that observers looked at."""
        observers = self.folder.glob("client-*.jsonl")
        return {line["job"] for path in observers for line in _lines(path, having='"event":"seen"')}

    def _read(self, path: Path) -> None:
        seen: dict[str, dict[str, Any]] = {}
        is_client = path.name.startswith("client-")
        for line in _lines(path):
            event = line["event"]
            if is_client:
                self.seconds_with_clients.add(int(line["at"]))
            reader = getattr(self, f"_on_{event}", None)
            if event == "invoke":
                self.invoked[line["call"]] = line
                self._on_invoke(line)
            elif event in ("ok", "fail"):
                self._on_answer(self.invoked.pop(line["call"], {}), line)
            elif event == "seen":
                self._on_seen(seen.get(line["job"]), line)
                seen[line["job"]] = line
            elif reader is not None:
                reader(line)

    def _on_invoke(self, line: dict[str, Any]) -> None:
        if line["what"] != "submit":
            self.operators.on_invoke(line)
            return
        self.tokens.update(token for _, token in line["jobs"])
        if line.get("is_merged"):
            self.tokens_of_unique_keys.update(token for _, token in line["jobs"])

    def _on_answer(self, invoke: dict[str, Any], line: dict[str, Any]) -> None:
        what, status = line["what"], line["status"]
        if line["event"] == "fail":
            self._check_failure(what, status, line)
            return
        if what == "submit":
            self.oks.append((line["at"], len(line["jobs"])))
            self._on_submitted(invoke, line)
            return
        self.counts["cancelled by an operator"] += what == "cancel"
        if self.has_oracle:
            self.operators.on_ok(invoke, line)

    def _check_failure(self, what: str, status: int, line: dict[str, Any]) -> None:
        # A move that is not legal now, or a unique key that changes hands, is an answer; anything else is an error.
        allowed = status == 409 and (what in REFUSABLE or line["code"] == "conflict")
        self.findings.check("retry", allowed, f"{what} was answered with {status} {line.get('code', '')}")

    def _on_submitted(self, invoke: dict[str, Any], line: dict[str, Any]) -> None:
        key = invoke.get("key")
        self.findings.checked["retry"] += 1
        for (_, token), (job_id, existing) in zip(invoke["jobs"], line["jobs"], strict=True):
            self.counts["accepted"] += 1
            self.counts["existing"] += existing
            is_merged = bool(invoke.get("is_merged") and existing)
            self.answered[job_id] = {"token": token, "merged": is_merged, "unique_key": invoke.get("unique_key")}
            if is_merged and self.has_oracle:
                self._check_merge(job_id, invoke["at"], line["at"])
            if key is not None:
                before = self.job_of_key.setdefault(key, job_id)
                self.findings.check("I13", before == job_id, f"key {key} has jobs {before} and {job_id}")

    def _check_merge(self, job_id: str, invoked_at: float, answered_at: float) -> None:
        """A submission may be merged into a job that lives, never into one that was over: that would lose work.

        Whether it lived was looked up at some moment between the request and its answer; a job that ends after that
        moment, and perhaps before the answer, has been told of its work in time.
        """
        lives = self.fold.lives_of_keyed.get(job_id, ())
        lived = any(
            life.began_at <= answered_at + CLOCK_SECONDS and life.ended_at >= invoked_at - UNSEEN_SECONDS_MAX
            for life in lives
        )
        self.findings.check("I12", lived, f"a submission was merged into job {job_id}, which had ended")

    def _on_unknown(self, line: dict[str, Any]) -> None:
        self.counts["ambiguous"] += line.get("what") == "submit"
        self.operators.on_unsure(self.invoked.get(line["call"], {}))

    def _on_refused(self, line: dict[str, Any]) -> None:
        self.counts["turned away, repeated"] += 1
        self.operators.on_unsure(self.invoked.get(line["call"], {}))

    def _on_read_back(self, line: dict[str, Any]) -> None:
        if line["status"] in (200, 404) and line["job"] not in self.fold.purged:
            self.findings.check("I18", line["status"] == 200, f"job {line['job']} was accepted and is not found")

    def _on_seen(self, before: dict[str, Any] | None, line: dict[str, Any]) -> None:
        if self.has_oracle:
            told = f"job {line['job']} was seen as {line['state']}, in life {line['generation']}, and was not"
            self.findings.check("I19", self._was(line), told)
        if before is None:
            return
        same_life = before["generation"] == line["generation"]
        legal = line["generation"] >= before["generation"]
        if same_life:
            legal = legal and line["attempts"] >= before["attempts"] - (line["state"] not in TERMINAL)
            legal = legal and (before["state"] not in TERMINAL or line["state"] == before["state"])
        else:
            legal = legal and before["state"] not in ("succeeded", "cancelled")
        self.findings.check("I19", legal, f"job {line['job']} was seen as {before['state']}, then as {line['state']}")

    def _was(self, line: dict[str, Any]) -> bool:
        """Say whether a job was where it was seen, at some moment between the request and its answer."""
        place = PLACES.get(line["state"], line["state"])
        path = self.fold.paths[line["job"]]
        nexts = [*path[1:], (float("inf"), "", 0)]
        return any(
            (place, line["generation"]) == (there, life)
            and came_at <= line["at"] + CLOCK_SECONDS
            and left_at >= line["asked_at"] - UNSEEN_SECONDS_MAX
            for (came_at, there, life), (left_at, _, _) in zip(path, nexts, strict=True)
        )

    def _on_started(self, line: dict[str, Any]) -> None:
        self.handled["started"].add(line["lease"])

    def _on_returned(self, line: dict[str, Any]) -> None:
        self.handled["returned"].add(line["lease"])

    def _on_raised(self, line: dict[str, Any]) -> None:
        self.handled["raised"].add(line["lease"])

    def _on_plain_leased(self, line: dict[str, Any]) -> None:
        self.handled["started"].add(line["lease"])

    def _on_plain_reports(self, line: dict[str, Any]) -> None:
        if not line["forged"]:
            self.handled["returned" if line["kind"] == "succeeded" else "raised"].add(line["lease"])

    def _on_plain_told(self, line: dict[str, Any]) -> None:
        answer = line["answer"]
        if line["forged"]:
            self.findings.check("I5", answer != "acknowledged", f"a forged report of {line['lease']} was acknowledged")
        if answer in ("lease_lost", "already_settled"):
            self.counts["refused"] += 1
        elif answer != "acknowledged":
            return
        if not self.has_oracle or line["forged"]:
            return
        job, batch = lease_of(line["lease"])
        outcome = self.fold.outcomes.get((job, batch))
        decided = outcome is not None and outcome.kind == line["kind"]
        if answer == "acknowledged":
            self.findings.check(
                "I5",
                decided,
                f"the report {line['kind']} of {line['lease']} was acknowledged and is {outcome and outcome.kind}",
            )
        else:
            self.findings.check(
                "I5", not decided, f"the report {line['kind']} of {line['lease']} was refused ({answer}) and counts"
            )

    def _on_receipted(self, line: dict[str, Any]) -> None:
        """Take what a worker's receipt says of its reports: accepted, or refused for a reason."""
        for kind, leases in line["accepted"].items():
            self.counts["receipts"] += len(leases)
            if self.has_oracle:
                for lease in leases:
                    outcome = self.fold.outcomes.get(lease_of(lease))
                    is_decided = outcome is not None and outcome.kind == kind
                    told = f"the report {kind} of {lease} has a receipt and is {outcome and outcome.kind}"
                    self.findings.check("receipt", is_decided, told)
        for lease, kind, reason in line["refused"]:
            if self.has_oracle and reason in NOT_DECIDED:
                outcome = self.fold.outcomes.get(lease_of(lease))
                is_decided = outcome is not None and outcome.kind == kind
                self.findings.check("I5", not is_decided, f"the report {kind} of {lease} was refused and counts")

    def _on_plain_renewed(self, line: dict[str, Any]) -> None:
        if line["forged"]:
            self.findings.check("I17", not line["kept"], f"the forged lease {line['lease']} was renewed")

    def _on_kinds(self, line: dict[str, Any]) -> None:
        """Take which kinds of faults were asked for, and which of them cannot be done here, each with why."""
        self.kinds_asked, self.kinds_left_out = line["asked"], line["left_out"]

    def _on_fault(self, line: dict[str, Any]) -> None:
        self.faults.append(line)

    def _on_credit(self, line: dict[str, Any]) -> None:
        few = line["received"] <= line["granted"]
        self.findings.check("credit", few, f"{line['received']} jobs came for a credit of {line['granted']}")

    def _on_hung(self, line: dict[str, Any]) -> None:
        self.findings.check("stop", False, f"{line['what']} did not end within {line['seconds']:g} s of its signal")

    def _on_restart(self, line: dict[str, Any]) -> None:
        self.findings.checked["stop"] += line["what"] in ("server", "worker")
        self.counts["restarts"] += 1
        self.counts[f"restarts of {line['what']}"] += 1

    def _on_returned_service(self, line: dict[str, Any]) -> None:
        self.returns.append((line["what"], line["at"]))

    def _on_mark(self, line: dict[str, Any]) -> None:
        self.phases[line["name"]] = line["at"]

    def _on_secrets(self, line: dict[str, Any]) -> None:
        self.findings.checked["I23"] += line["lines"]
        if line["found"]:
            self.findings.check("I23", False, f"secrets are in {line['found']}")

    def _on_queues_told(self, line: dict[str, Any]) -> None:
        """Take what `GET /v1/queues` says after the run has come to rest."""
        if not self.has_oracle:
            return
        real = Counter((job.submission.queue, _state(job)) for job in self.fold.jobs.values())
        told = {(entry["queue"], entry["status"]): entry["count"] for entry in line["queues"]}
        for key in sorted({*real, *told}):
            is_right = told.get(key, 0) == real[key]
            self.findings.check("I15", is_right, f"{key[1]} in {key[0]}: told {told.get(key, 0)}, real {real[key]}")

    def _on_listed(self, line: dict[str, Any]) -> None:
        """Take all ids of a list, page after page, read after the run has come to rest."""
        ids, state = line["jobs"], line["state"]
        self.findings.check(
            "I24", len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} {state} jobs are listed twice"
        )
        if self.has_oracle:
            gaps = {job_id for job_id, job in self.fold.jobs.items() if _state(job) == state} ^ set(ids)
            self.findings.check("I24", not gaps, f"the list of {state} jobs differs in {sorted(gaps)[:3]}")

    def _on_final(self, line: dict[str, Any]) -> None:
        """Take the state of one accepted job after the run, as REST tells it (runs without an oracle)."""
        job = line["job"]
        self.findings.check("I1", line["state"] != "missing", f"job {job} was accepted and is not there")
        self.findings.check(
            "I16",
            line["state"] in TERMINAL or line["state"] == "missing",
            f"job {job} is {line['state']} after healing",
        )
        self.counts["lost"] += line["state"] == "missing"

    # The oracle.

    def _check_submissions(self) -> None:
        for job_id, told in self.answered.items():
            job = self.fold.jobs.get(job_id) or self.fold.purged.get(job_id)
            if not self.findings.check("I1", job is not None, f"job {job_id} was accepted and is not there"):
                self.counts["lost"] += 1
                continue
            assert job is not None
            same = (
                job.submission.unique_key == told["unique_key"]
                if told["merged"]
                else job.submission.token == told["token"]
            )
            self.findings.check("I1", same, f"job {job_id} is another one than was submitted")
        for token, job_ids in self.fold.by_token.items():
            self.findings.check("I2", token in self.tokens, f"job {job_ids[0]} was never submitted")
            if not self.findings.check("I13", self._is_one(token, job_ids), f"one submission made the jobs {job_ids}"):
                self.counts["doubled submissions"] += 1

    def _is_one(self, token: str, job_ids: Sequence[str]) -> bool:
        """A submission makes one job; with only a unique key, a repeat makes another one once the first is over."""
        if token not in self.tokens_of_unique_keys:
            return len(job_ids) == 1
        earlier = [self.fold.jobs.get(job_id) for job_id in job_ids[:-1]]
        return all(job is None or job.ended_at is not None for job in earlier)

    def _check_outcomes(self) -> None:
        started, returned, raised = (_leases(self.handled[name]) for name in ("started", "returned", "raised"))
        for (job_id, batch), outcome in self.fold.outcomes.items():
            lease, check = (job_id, batch), self.findings.check
            if outcome.kind == "succeeded":
                check("I5", lease in returned, f"job {job_id} succeeded, and no handler returned")
            elif outcome.kind == "failed":
                check("I5", lease in raised, f"job {job_id} failed, and no handler raised")
            elif outcome.kind == "cancelled":
                by_operator = job_id in self.operators.asked["cancel"]
                check("I14", by_operator or lease in raised, f"job {job_id} was cancelled by nobody")
            if outcome.kind == "expired" and outcome.started_at is not None and not outcome.worker.startswith("plain"):
                check("I7", lease in started, f"job {job_id} was charged for a run that never started")
            if outcome.generation > 1:
                asked = self.operators.asked
                lived_again = job_id in asked["replay"] or job_id in asked["retry"]
                check("I3", lived_again, f"job {job_id} lives again, and nobody replayed it")
            if (
                outcome.kind == "succeeded"
                and outcome.result
                and outcome.worker
                and not outcome.worker.startswith("plain")
            ):
                result = json.loads(outcome.result)
                check("I5", lease_of(result["lease"]) == lease, f"job {job_id} has the result of another run")

    def _check_end(self) -> None:
        for job_id, job in self.fold.jobs.items():
            if not self.findings.check("I16", job.ended is not None, f"job {job_id} has not ended: it is {where(job)}"):
                self.counts["stuck"] += 1

    def _check_reclaims(self) -> None:
        held_up = [(fault["began"], fault["ended"] + SETTLING_SECONDS) for fault in self.faults if fault["holds_up"]]
        standstills = self._standstills()
        held_up += [(began, ended + SETTLING_SECONDS) for began, ended in standstills]
        if standstills:
            self.counts["seconds at which the whole machine stood still"] = sum(b - a for a, b in standstills)
        # A fault lasts a few minutes at most, so that only those that began not long before can reach so far.
        held_up.sort()
        starts = [began for began, _ in held_up]
        quiet = []
        for reclaim in self.fold.reclaims:
            until = reclaim.expires_at + RECLAIM_SECONDS_MAX
            last = bisect.bisect_right(starts, until)
            first = bisect.bisect_left(starts, reclaim.expires_at - FAULT_SECONDS_MAX)
            if any(reclaim.expires_at <= ended for _, ended in held_up[first:last]):
                continue
            late = reclaim.ended_at - reclaim.expires_at
            quiet.append(late)
            self.findings.check(
                "I16",
                late <= RECLAIM_SECONDS_MAX,
                f"a lease was reclaimed {late:.2f} s after its end at {reclaim.expires_at:.3f}",
            )
        self.quiet_reclaims = quiet

    def _standstills(self) -> list[tuple[int, int]]:
        seconds = sorted(self.seconds_with_clients)
        return [(a, b) for a, b in itertools.pairwise(seconds) if b - a > SILENCE_SECONDS]

    # The end.

    def _verdict(self) -> Verdict:
        findings, recovery = self.findings, self._recovery()
        verdict = Verdict(
            checked={name: findings.checked[name] for name in INVARIANTS if findings.checked[name]},
            broken=dict(findings.broken),
            examples={name: lines[:EXAMPLES_MAX] for name, lines in findings.examples.items()},
            not_applicable=self._not_applicable(),
            counts=self._counts(),
            recovery=recovery.distributions(),
            back_after=recovery.of_kinds(),
            hits=self._hits(),
            left_out=self.kinds_left_out,
        )
        verdict.why = self._missing(verdict) + self._untried(verdict)
        idle = [kind for kind, hits in verdict.hits.items() if not hits]
        if findings.broken:
            verdict.verdict = "failed"
            verdict.why = [
                f"{name} ({INVARIANTS[name]}) broken {count} times" for name, count in findings.broken.items()
            ]
        elif idle:
            verdict.verdict = "failed"
            verdict.why = [f"the fault {kind} never had an effect" for kind in idle]
        elif self.with_limits and (slow := recovery.slow()):
            verdict.verdict = "failed"
            verdict.why = slow
        elif not verdict.why:
            verdict.verdict = "passed"
        verdict.why += self._left_out()
        return verdict

    def _not_applicable(self) -> dict[str, str]:
        missing = {name for name in INVARIANTS if not self.findings.checked[name]}
        default = "nothing in this run put it to the test" if self.has_oracle else OUTSIDE_ONLY
        return {name: NOT_APPLICABLE.get(name, default) for name in INVARIANTS if name in missing}

    def _counts(self) -> dict[str, int]:
        kinds = self.fold.kinds
        counts = dict.fromkeys(("lost", "doubled", "doubled submissions", "doubled outcomes", "refused"), 0)
        counts |= self.counts
        counts["doubled outcomes"] = self.fold.doubled_outcomes
        counts["doubled"] = counts["doubled submissions"] + counts["doubled outcomes"]
        counts["jobs"] = len(self.fold.jobs) + len(self.fold.purged) or len(self.answered)
        counts["ended"] = sum(
            kinds[kind] for kind in ("succeeded", "failed", "expired", "released", "snoozed", "cancelled")
        )
        counts.update({f"outcomes {kind}": count for kind, count in sorted(kinds.items())})
        if {"hurt", "heal"} <= self.phases.keys():
            began, ended = self.phases["hurt"], self.phases["heal"]
            accepted = sum(count for at, count in self.oks if began <= at <= ended)
            counts["accepted a second while hurt"] = round(accepted / (ended - began))
        counts["reclaimed"] = len(self.fold.reclaims)
        counts["recovered"] = sum(reclaim.leased_again_at is not None for reclaim in self.fold.reclaims)
        counts["late"] = self.fold.late
        counts["purged"] = len(self.fold.purged)
        counts["handed over"] = self.fold.handed_over
        counts["transactions"] = self.fold.transactions
        counts["faults"] = sum(1 for fault in self.faults if fault["hits"])
        return counts

    def _missing(self, verdict: Verdict) -> list[str]:
        counts, quotas = verdict.counts, self.quotas
        have = {
            "jobs": counts["jobs"],
            "faults": counts["faults"],
            "ambiguous": counts.get("ambiguous", 0),
            "refused": counts.get("refused", 0),
            "restarts": counts.get("restarts", 0),
        }
        if self.has_oracle:
            have |= {"reclaims": counts["reclaimed"], "handed_over": counts["handed over"]}
        missing = [
            f"{name}: {count} of at least {getattr(quotas, name)}"
            for name, count in have.items()
            if count < max(1, getattr(quotas, name)) and (getattr(quotas, name) or name in ("jobs", "faults"))
        ]
        return missing + self._unchecked()

    def _untried(self, verdict: Verdict) -> list[str]:
        """Return the kinds of faults that had no turn, or too few with an effect, although they could be done here."""
        effective = Counter(fault["kind"] for fault in self.faults if fault["hits"])
        asked = [kind for kind in self.kinds_asked if kind not in self.kinds_left_out]
        few = [kind for kind in verdict.hits if effective[kind] < self.quotas.each_kind]
        return [f"the fault {kind} never had its turn" for kind in asked if kind not in verdict.hits] + [
            f"each_kind: {effective[kind]} of at least {self.quotas.each_kind} of {kind}" for kind in few
        ]

    def _left_out(self) -> list[str]:
        """Return which kinds cannot be done here, in one line for each reason."""
        kinds_of_reason = defaultdict(list)
        for kind, reason in self.kinds_left_out.items():
            kinds_of_reason[reason].append(kind)
        return [f"left out, {reason}: {', '.join(kinds)}" for reason, kinds in kinds_of_reason.items()]

    def _unchecked(self) -> list[str]:
        """Return the invariants that were put to the test too seldom; without an oracle many cannot be."""
        if not self.has_oracle:
            return []
        wished = {name: min(SELDOM.get(name, self.quotas.checks), self.quotas.checks) for name in INVARIANTS}
        return [
            f"{name} ({meaning}): checked {self.findings.checked[name]} of at least {wished[name]} times"
            for name, meaning in INVARIANTS.items()
            if name not in NOT_APPLICABLE and self.findings.checked[name] < wished[name]
        ]

    def _recovery(self) -> Recovery:
        accepted_at = (at for at, _ in self.oks)
        return Recovery(accepted_at, self.faults, self.returns, self.fold.reclaims, self.quiet_reclaims)

    def _hits(self) -> dict[str, int]:
        hits: dict[str, int] = defaultdict(int)
        for fault in self.faults:
            hits[fault["kind"]] += fault["hits"]
        return dict(sorted(hits.items()))


def _lines(path: Path, having: str = "") -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            # A process that was killed may have left half a line.
            if line.endswith("\n") and having in line:
                yield json.loads(line)


def _leases(texts: set[str]) -> set[tuple[str, str]]:
    return {lease_of(text) for text in texts}


def _state(job: Job) -> str:
    if job.ended is not None:
        return job.ended
    return "pending" if job.waiting is not None else "leased"


def main() -> int:
    """Judge a folder and print the verdict as JSON."""
    verdict = Judge(Path(sys.argv[1]), Quotas()).judge()
    print(json.dumps(asdict(verdict), indent=2))
    return 0 if verdict.verdict == "passed" else 1


if __name__ == "__main__":
    raise SystemExit(main())
