"""Run benchmarks: `hatch run bench [NAME ...] [--short] [--runs N] [--json FILE]`; with `--peers`, others beside ours.

Each figure is the median of several runs, with its range. The report says how noisy the machine was: the same small
loop is timed before and after each run.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.peers import run as peers
from benchmarks.scenarios import drain, latency, storage, submit
from benchmarks.stage import Figure, Stage, machine, noise_ms

SCENARIOS: dict[str, Callable[[Stage, bool], Iterator[Figure]]] = {
    "storage": storage.run,
    "submit": submit.run,
    "drain": drain.run,
    "latency": latency.run,
}
RESULTS = Path(__file__).resolve().parent / "results"
console = Console()


def main() -> int:
    if any(word.startswith("--peers") for word in sys.argv[1:]):
        return peers.main()
    options = _options()
    figures: dict[str, list[Figure]] = {}
    noise = [noise_ms()]
    runs = 1 if options.short else options.runs
    for name in options.scenarios or SCENARIOS:
        for run in range(1, runs + 1):
            console.print(f"{name}: run {run} of {runs}", style="dim")
            with Stage() as stage:
                for figure in SCENARIOS[name](stage, options.short):
                    figures.setdefault(f"{name}: {figure.what}", []).append(figure)
                    console.print(f"  {figure.what}: {figure.value:,.6g} {figure.unit}", style="dim")
            noise.append(noise_ms())
    report = _report(figures, noise, short=options.short)
    _show(report)
    file = options.json or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2))
    console.print(f"raw results: {file}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="NAME", help=f"of: {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="one small run, to see that everything runs")
    parser.add_argument("--runs", type=int, default=3, help="runs for each figure (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the raw results")
    options = parser.parse_args()
    unknown = set(options.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


def _report(figures: dict[str, list[Figure]], noise: list[float], *, short: bool) -> dict[str, object]:
    rows = [
        {
            "what": what,
            "unit": found[0].unit,
            "median": statistics.median(figure.value for figure in found),
            "low": min(figure.value for figure in found),
            "high": max(figure.value for figure in found),
            "runs": len(found),
        }
        for what, found in figures.items()
    ]
    spread = (max(noise) / min(noise) - 1) * 100
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "short": short,
        "machine": machine(),
        "noise_percent": round(spread, 1),
        "figures": rows,
    }


def _show(report: dict[str, object]) -> None:
    table = Table(title=f"Quorra, {report['machine']}; noise {report['noise_percent']} %", title_justify="left")
    for heading in ("figure", "median", "range", "unit"):
        table.add_column(heading, justify="right" if heading in ("median", "range") else "left")
    rows = report["figures"]
    assert isinstance(rows, list)
    for row in rows:
        table.add_row(row["what"], f"{row['median']:,.5g}", f"{row['low']:,.5g} - {row['high']:,.5g}", row["unit"])
    console.print(table)


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    console.print(f"took {time.monotonic() - began:.0f} s", style="dim")
    sys.exit(code)
