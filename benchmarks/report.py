"""The report of raw results: `hatch run bench report FILE ...`; Markdown, with a plot for whatever can be compared.

Everything in it comes from the files, so that it can be made again, and from several of them together.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.figures import ROLES, Scenario
from benchmarks.rows import Row, gather_rows, read_results
from benchmarks.scenarios import SCENARIOS

NAME = "report.md"


def main(arguments: list[str]) -> int:
    """Make a report of the files that the command line names."""
    parser = argparse.ArgumentParser(prog="bench report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="raw results; several are taken together")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to put it (beside the first file)")
    options = parser.parse_args(arguments)
    folder = options.to or options.files[0].with_suffix("")
    try:
        write(options.files, folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(folder / NAME)
    return 0


def write(files: Sequence[Path], folder: Path) -> None:
    """Write the report and its plots into a folder.

    Raises:
        ValueError: A file does not hold raw results of this suite, or none holds a figure.
    """
    results = [read_results(file) for file in files]
    rows = gather_rows(results)
    if not rows:
        raise ValueError(f"{', '.join(map(str, files))}: no figures, so there is nothing to report")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_head(results, rows)]
    for name, scenario in SCENARIOS.items():
        own = [row for row in rows if row.scenario == name]
        if own:
            parts.append(_part(scenario, own, min(min(row.loops_ms) for row in rows), folder))
    (folder / NAME).write_text("\n\n".join(parts) + "\n")


# The head: what was measured on.


def _head(results: Sequence[dict[str, Any]], rows: Sequence[Row]) -> str:
    loops = [loop for row in rows for loop in row.loops_ms]
    first = results[0]
    lines = [
        "# Benchmarks",
        "",
        f"Measured {', '.join(dict.fromkeys(result['at'] for result in results))}; noise up to "
        f"{(max(loops) / min(loops) - 1) * 100:.0f} % (how much longer the same small loop took, before or after a "
        "figure, than at its fastest; with more than a few per cent, differences of a third are a tie).",
    ]
    if any(result["short"] for result in results):
        lines += ["", "**A short run: it shows that everything runs, and its figures mean nothing.**"]
    if any(result["machine"] != first["machine"] for result in results):
        lines += ["", "**The files come from different machines or versions; what follows is the first one's.**"]
    for heading, key in (("machine", "machine"), ("setting", "settings"), ("PostgreSQL", "postgresql")):
        lines += ["", f"| {heading} | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in first[key].items()]
    return "\n".join(lines)


# A scenario: plots, then the table.


def _part(scenario: Scenario, rows: Sequence[Row], fastest_loop_ms: float, folder: Path) -> str:
    lines = [f"## {scenario.name}", "", f"{scenario.title}."]
    for file in _plot(scenario, rows, folder):
        lines += ["", f"![{scenario.title}]({file})"]
    lines += ["", *_table(scenario, rows, fastest_loop_ms)]
    return "\n".join(lines)


def _plot(scenario: Scenario, rows: Sequence[Row], folder: Path) -> list[str]:
    files = []
    for unit in dict.fromkeys(row.unit for row in rows):
        curves = [row for row in rows if row.unit == unit and row.at is not None]
        bars = [row for row in rows if row.unit == unit and row.at is None]
        name = f"{scenario.name}-{unit.replace('/', '-per-').replace('%', 'percent').replace(' ', '-')}"
        if curves:
            files.append(f"{name}-curve.svg")
            plots.curves(folder / files[-1], scenario.title, scenario.axis, unit, curves)
        if len(bars) > 1:
            files.append(f"{name}.svg")
            plots.bars(folder / files[-1], scenario.title, unit, bars)
    if any(row.cpu_us for row in rows):
        files.append(f"{scenario.name}-cpu.svg")
        plots.cpu(folder / files[-1], f"{scenario.name}: CPU time of each job", [row for row in rows if row.cpu_us])
    return files


def _table(scenario: Scenario, rows: Sequence[Row], fastest_loop_ms: float) -> list[str]:
    has_cpu = any(row.cpu_us for row in rows)
    headings = ["figure", *([scenario.axis] if scenario.axis else []), "median", "range", "unit"]
    headings += [f"CPU us/job: {role}" for role in ROLES] + ["generator's share of the machine"] if has_cpu else []
    headings += ["runs", "noise"]
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for row in rows:
        cells = [row.what, *([number(row.at)] if scenario.axis else [])]
        cells += [number(row.median), f"{number(min(row.values))} - {number(max(row.values))}", row.unit]
        if has_cpu:
            cells += [number(row.cpu(role)) if row.cpu_us else "" for role in ROLES]
            cells += [f"{statistics.median(row.generator_percent):.0f} %" if row.cpu_us else ""]
        cells += [str(len(row.values)), f"{(max(row.loops_ms) / fastest_loop_ms - 1) * 100:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def number(value: float | None) -> str:
    """Return a number as a reader wants it: four digits that count, and thousands apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1_000 or value == int(value) else f"{value:.4g}"
