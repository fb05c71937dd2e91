"""The judge of promotions: what clients were told against what is there, and against what the product says was lost.

Imports nothing of the product. A loss is *told* if its job is named in a report, *within a window* if a report says
that what was acknowledged then may be lost, and *silent* otherwise. A silent loss is never right; any other is right
in asynchronous mode only.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.faults.judging.recovery import distribution
from tests.faults.judging.tables import lease_of

# Clients note an answer a little later than the database gave it.
CLOCK_SECONDS = 2.0


@dataclass(slots=True)
class Told:
    """What the product reported: ids, and windows of time in seconds since the epoch."""

    jobs: set[str] = field(default_factory=set)
    windows: list[tuple[float, float]] = field(default_factory=list)
    count: int = 0


@dataclass(slots=True)
class PromotionsVerdict:
    """What came of a run.

    Attributes:
        acknowledged: Submissions and outcomes that clients were told are durable.
        lost: Those that are gone; `told` by id, or else `in_window`, or else `silent`.
        to_the_old: Writes that reached a primary after another one was promoted and seen.
        recovery_seconds: From each promotion until each server took a submission.
    """

    mode: str
    promotions: dict[str, int]
    acknowledged: dict[str, int]
    lost: dict[str, int]
    told: int
    in_window: int
    silent: int
    to_the_old: int
    recovery_seconds: dict[str, float]
    examples: list[str]
    why: list[str]

    @property
    def verdict(self) -> str:
        """`passed`, `failed`, or `unknown` if nothing happened that could have gone wrong."""
        if self.why:
            return "failed"
        is_vacuous = not self.acknowledged["jobs"] or (self.mode == "async" and not self.lost["jobs"])
        return "unknown" if is_vacuous or not sum(self.promotions.values()) else "passed"


def judge(folder: Path, *, mode: str, recovery_seconds_max: float) -> PromotionsVerdict:
    """Hold the histories in a folder against the end of the run, which is in `end.json` there."""
    end = json.loads((folder / "end.json").read_text())
    told = _told(end["failovers"])
    jobs, outcomes = set(end["jobs"]), {tuple(pair) for pair in end["outcomes"]}
    accepted = dict(_accepted(folder))
    reported = dict(_reported(folder))
    missing = [("job", job, at) for job, at in accepted.items() if job not in jobs]
    missing += [("outcome", lease[0], at) for lease, at in reported.items() if lease not in outcomes]
    by_id = [each for each in missing if each[1] in told.jobs]
    in_window = [each for each in missing if each[1] not in told.jobs and _is_within(each[2], told.windows)]
    silent = [each for each in missing if each[1] not in told.jobs and not _is_within(each[2], told.windows)]
    recoveries = [line for line in _lines(folder, "faults-*.jsonl") if line["event"] == "promoted"]
    verdict = PromotionsVerdict(
        mode=mode,
        promotions=_count(line["way"] for line in recoveries),
        acknowledged={"jobs": len(accepted), "outcomes": len(reported)},
        lost={
            "jobs": sum(1 for kind, _, _ in missing if kind == "job"),
            "outcomes": sum(1 for kind, _, _ in missing if kind == "outcome"),
        },
        told=len(by_id),
        in_window=len(in_window),
        silent=len(silent),
        to_the_old=sum(line["to_the_old"] for line in recoveries),
        recovery_seconds=distribution([seconds for line in recoveries for seconds in line["recovery_seconds"]]),
        examples=[f"{kind} of {job}, acknowledged at {at:.3f}" for kind, job, at in (silent or missing)[:5]],
        why=[],
    )
    verdict.why = _why(verdict, told, recovery_seconds_max)
    return verdict


def _why(verdict: PromotionsVerdict, told: Told, recovery_seconds_max: float) -> list[str]:
    why = []
    if verdict.mode == "sync" and any(verdict.lost.values()):
        why.append(f"{verdict.lost} acknowledged changes are lost with a synchronous standby")
    if verdict.silent:
        why.append(f"{verdict.silent} losses were not reported")
    if verdict.to_the_old:
        why.append(f"{verdict.to_the_old} writes went to a primary of before")
    if verdict.recovery_seconds.get("p99", 0) > recovery_seconds_max:
        why.append(f"writes were back after {verdict.recovery_seconds['p99']:g} s at p99")
    promotions = sum(verdict.promotions.values())
    if told.count < promotions:
        why.append(f"only {told.count} of {promotions} promotions were reported")
    return why


def _told(failovers: Iterable[dict[str, Any]]) -> Told:
    told = Told(count=len({(entry["system_identifier"], entry["timeline"]) for entry in failovers}))
    for entry in failovers:
        told.jobs.update(entry["job_ids"])
        # Without a beginning it is no window: that any time before may be lost tells nobody what to submit again.
        if entry["lost_from"] and entry["lost_until"]:
            began, ended = (datetime.fromisoformat(entry[end]).timestamp() for end in ("lost_from", "lost_until"))
            told.windows.append((began, ended))
    return told


def _is_within(at: float, windows: Iterable[tuple[float, float]]) -> bool:
    return any(began - CLOCK_SECONDS <= at <= ended + CLOCK_SECONDS for began, ended in windows)


def _accepted(folder: Path) -> Iterable[tuple[str, float]]:
    for line in _lines(folder, "client-*.jsonl"):
        if line["event"] == "ok" and line.get("what") == "submit":
            yield from ((job, line["at"]) for job, _ in line["jobs"])
    for line in _lines(folder, "faults-*.jsonl"):
        if line["event"] == "probed":
            yield line["job"], line["at"]


def _reported(folder: Path) -> Iterable[tuple[tuple[str, str], float]]:
    for line in _lines(folder, "client-*.jsonl"):
        if line["event"] == "plain_told" and line["answer"] == "acknowledged" and not line["forged"]:
            yield lease_of(line["lease"]), line["at"]


def _lines(folder: Path, pattern: str) -> Iterable[dict[str, Any]]:
    for path in sorted(folder.glob(pattern)):
        for text in path.read_text().splitlines():
            yield json.loads(text)


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
