"""Run benchmarks, or make a report or a flame graph of them.

hatch run bench [NAME ...]             all scenarios, or some; three runs each
hatch run bench report FILE ...        the report of raw results, in Markdown with plots
hatch run bench flame NAME             where a scenario's time goes, as SVG
hatch run bench --peers A,B ...        other queues beside ours, in the same run
"""

import argparse
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import flame, report, session
from benchmarks.peers import run as peers
from benchmarks.scenarios import SCENARIOS

RESULTS = Path(__file__).resolve().parent / "results"
COMMANDS: dict[str, Callable[[list[str]], int]] = {"report": report.main, "flame": flame.main}


def main(arguments: list[str]) -> int:
    """Run what the command line asks for and return the exit code."""
    # Whoever is told to stop still stops the processes that it has started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    if any(word.startswith("--peers") for word in arguments):
        return peers.main(arguments)
    return _bench(_options(arguments))


def _bench(options: argparse.Namespace) -> int:
    console = Console()
    failures = session.run_scenarios(
        [SCENARIOS[name] for name in options.scenarios or SCENARIOS],
        runs=options.runs,
        short=options.short,
        file=options.json,
        console=console,
    )
    console.print(f"raw results: {options.json}", soft_wrap=True)
    for failure in failures:
        console.print(f"failed: {failure}", style="red", markup=False)
    return report.main([str(options.json)]) or (1 if failures else 0)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="NAME", choices=[*SCENARIOS, []], help=f"of: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--short", action="store_true", help="one small run, to see that everything runs")
    parser.add_argument("--runs", type=int, help="runs of each scenario (3; 1 with --short)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to keep the raw results (benchmarks/results/TIME.json)"
    )
    options = parser.parse_args(arguments)
    options.runs = options.runs or (1 if options.short else 3)
    options.json = options.json or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
