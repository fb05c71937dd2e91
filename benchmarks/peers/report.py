"""Tables of what was measured, as Markdown, from the raw results alone."""

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.peers.contestants import OURS, PEERS, REDIS_PROMISE, Contestant

Row = dict[str, Any]
COLUMNS = (
    ("bulk", "bulk submit, jobs/s"),
    ("single", "single submit, jobs/s"),
    ("drain, 1 worker", "drain, 1 worker, jobs/s"),
    ("drain, 2 workers", "drain, 2 workers, jobs/s"),
    ("drain, 1 M waiting", "1 worker, 1 M waiting, jobs/s"),
    ("drain, 1 M finished", "1 worker, 1 M finished, jobs/s"),
    ("latency p50", "idle latency p50, ms"),
    ("latency p99", "p99, ms"),
)
COSTS = ("worker us", "server us", "store us", "WAL bytes", "others %")


def markdown(results: dict[str, Any]) -> str:
    """Write the tables of figures, of costs and of fairness."""
    rows: list[Row] = results["rows"]
    measured = [contestant for contestant in (*OURS, *PEERS) if any(_of(rows, contestant.name))]
    parts = [
        _heading(results),
        _figures(rows, measured),
        "What one job costs while one worker drains: CPU in microseconds by party (a library's work is the worker's), "
        "and write-ahead log; and how much of the machine others took meanwhile.",
        _costs(rows, measured),
        "What is compared:",
        _fairness(measured),
        *(f"* {name} was not measured: {reason}" for name, reason in results["missing"].items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(results: dict[str, Any]) -> str:
    noise = [value for row in results["rows"] for value in row["noise_ms"]]
    spread = (max(noise) / min(noise) - 1) * 100 if noise else 0.0
    rounds = len({row["round"] for row in results["rows"]})
    kind = "one short round, which measures nothing" if results["short"] else f"medians and ranges of {rounds} rounds"
    return (
        f"{results['machine']}; {results['at']}; {kind}; everybody in turn in each; noise {spread:.0f} % (the same "
        f"small loop before and after each measurement). PostgreSQL: {results['postgres']}. Redis: {results['redis']}."
    )


def _figures(rows: Sequence[Row], measured: Sequence[Contestant]) -> str:
    columns = [(scenario, title) for scenario, title in COLUMNS if any(row["scenario"] == scenario for row in rows)]
    lines = []
    for contestant in measured:
        own = list(_of(rows, contestant.name))
        lines.append([contestant.title, *(_cell(own, scenario) for scenario, _ in columns)])
    return _table(["system", *(title for _, title in columns)], lines)


def _costs(rows: Sequence[Row], measured: Sequence[Contestant]) -> str:
    lines = []
    for contestant in measured:
        drained = [row for row in _of(rows, contestant.name) if row["scenario"] == "drain, 1 worker" and row["costs"]]
        if drained:
            lines.append(
                [contestant.title, *(_number(_median(row["costs"].get(c, 0) for row in drained)) for c in COSTS)]
            )
    return _table(["system", *COSTS], lines) if lines else ""


def _fairness(measured: Sequence[Contestant]) -> str:
    lines = []
    for contestant in measured:
        promises = contestant.promises
        if contestant.store == "redis":
            promises += f"; {REDIS_PROMISE}"
        settings = json.dumps(contestant.settings) if contestant.settings else "defaults"
        lines.append([contestant.title, contestant.form, contestant.keeps, promises, f"`{settings}`"])
    return _table(["system", "form", "keeps of a job that succeeded", "promises", "settings"], lines)


def _of(rows: Iterable[Row], name: str) -> Iterable[Row]:
    return (row for row in rows if row["contestant"] == name)


def _cell(rows: Sequence[Row], scenario: str) -> str:
    found = [row for row in rows if row["scenario"] == scenario]
    values = [row["value"] for row in found if row["value"] is not None]
    if not values:
        return "failed" if found else "-"
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(_median(values))} ({_number(min(values))} - {_number(max(values))})"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
