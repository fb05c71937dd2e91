"""Measure other job queues beside ours: `hatch run bench --peers NAME,NAME|all [SCENARIO ...]`.

In each round everybody has a turn: ours, the first peer, the second, ... Each peer is installed once, in a folder of
its own; one that cannot be is reported with the reason, and the others go on.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.cluster import POSTGRES_SETTINGS
from benchmarks.machine import loop_ms, summary
from benchmarks.peers import OURS, PEERS, Contestant
from benchmarks.peers.entrant import Entrant, Failed, OurEntrant
from benchmarks.peers.ground import REDIS_SETTINGS, Ground
from benchmarks.peers.install import NotInstalled
from benchmarks.peers.measure import DEFAULT, SCENARIOS
from benchmarks.peers.report import markdown

RESULTS = Path(__file__).resolve().parents[1] / "results"
NAMES = tuple(peer.name for peer in PEERS)
console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep the raw results and print the tables."""
    options = _options(arguments)
    # Processes end with the run, however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    file: Path = options.json or RESULTS / f"peers-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    results = json.loads(file.read_text()) if options.append and file.exists() else _fresh(short=options.short)
    if not options.report_only:
        file.parent.mkdir(parents=True, exist_ok=True)
        _measure(options, results, file)
    report = markdown(results)
    file.with_suffix(".md").write_text(report)
    console.print(report, soft_wrap=True, markup=False)
    console.print(f"raw results: {file}; tables: {file.with_suffix('.md')}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench --peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", required=True, metavar="NAMES", help=f"all, or some of: {', '.join(NAMES)}")
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)} (default: {', '.join(DEFAULT)})"
    )
    parser.add_argument("--runs", type=int, default=3, help="rounds (3)")
    parser.add_argument("--short", action="store_true", help="one small round, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the raw results")
    parser.add_argument("--append", action="store_true", help="add to the results in FILE: a long run in several parts")
    parser.add_argument("--report-only", action="store_true", help="only write the tables of the results in FILE again")
    options = parser.parse_args(arguments)
    options.peers = NAMES if options.peers == "all" else tuple(filter(None, options.peers.split(",")))
    for kind, given, known in (("peer", options.peers, NAMES), ("scenario", options.scenarios, tuple(SCENARIOS))):
        if unknown := set(given) - set(known):
            parser.error(f"no {kind} {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.report_only:
        options.append = True
    if options.append and not options.json:
        parser.error("--append and --report-only need --json FILE")
    return options


def _fresh(*, short: bool) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "short": short,
        "machine": summary(),
        "postgres": ", ".join(f"{name}={value}" for name, value in POSTGRES_SETTINGS.items())
        + ", fsync and synchronous_commit on",
        "redis": " ".join(word or '""' for word in REDIS_SETTINGS),
        "missing": {},
        "rows": [],
    }


def _measure(options: argparse.Namespace, results: dict[str, Any], file: Path) -> None:
    """Take turns; the file has every figure as soon as there is one."""
    first = max((row["round"] for row in results["rows"]), default=0) + 1
    with Ground() as ground:
        entrants = _enter(options.peers, ground, results)
        for number in range(first, first + (1 if options.short else options.runs)):
            for scenario in options.scenarios or DEFAULT:
                for entrant in entrants:
                    if scenario in entrant.contestant.scenarios:
                        results["rows"] += _turn(entrant, scenario, number, short=options.short)
                        file.write_text(json.dumps(results, indent=1))


def _enter(names: Sequence[str], ground: Ground, results: dict[str, Any]) -> list[Entrant]:
    entrants: list[Entrant] = [OurEntrant(contestant, ground) for contestant in OURS]
    for peer in (_peer(name) for name in names):
        console.print(f"{peer.title}: installing, unless it is there", style="dim")
        try:
            entrants.append(Entrant(peer, ground))
        except NotInstalled as missing:
            console.print(f"{peer.title} cannot be measured here: {missing}", style="yellow", markup=False)
            results["missing"][peer.title] = str(missing)
    return entrants


def _turn(entrant: Entrant, scenario: str, number: int, *, short: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    began, noise = time.monotonic(), loop_ms()
    common = {"contestant": entrant.contestant.name, "round": number}
    try:
        for figure in SCENARIOS[scenario](entrant, short):
            rows.append(
                {
                    **common,
                    "scenario": figure.scenario,
                    "value": figure.value,
                    "unit": figure.unit,
                    "costs": figure.costs,
                }
            )
            console.print(
                f"  round {number}: {entrant.contestant.title}, {figure.scenario}: {figure.value:,.5g} {figure.unit}",
                style="dim",
                markup=False,
            )
    except Failed as failure:
        rows.append({**common, "scenario": scenario, "value": None, "unit": "", "costs": {}, "error": str(failure)})
        console.print(f"  {entrant.contestant.title}, {scenario}: {failure}", style="yellow", markup=False)
    for row in rows:
        row |= {"noise_ms": [noise, loop_ms()], "turn_seconds": round(time.monotonic() - began, 1)}
    return rows


def _peer(name: str) -> Contestant:
    return next(peer for peer in PEERS if peer.name == name)


if __name__ == "__main__":
    raise SystemExit(main())
