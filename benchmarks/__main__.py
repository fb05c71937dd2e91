"""Run benchmarks, or make a report or a flame graph of them.

hatch run bench [NAME ...]             all scenarios, or some; three runs each
hatch run bench report FILE ...        the report of raw results, in Markdown with plots
hatch run bench flame NAME             where a scenario's time goes, as SVG
"""

import argparse
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
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    if any(word.startswith("--peers") for word in arguments):
        return peers.main(arguments)
    return _bench(_options(arguments))


def _bench(options: argparse.Namespace) -> int:
    console = Console()
    session.run_scenarios(
        [SCENARIOS[name] for name in options.scenarios or SCENARIOS],
        runs=options.runs,
        short=options.short,
        file=options.json,
        console=console,
    )
    folder = options.json.with_suffix("")
    report.write([options.json], folder)
    console.print(f"raw results: {options.json}\nreport:      {folder / report.NAME}")
    return 0


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
