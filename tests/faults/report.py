"""The verdict for people."""

from rich.console import Console
from rich.table import Table

from tests.faults.judging.judge import INVARIANTS, Verdict
from tests.faults.judging.recovery import SHARES

SECONDS = tuple(SHARES)
COLOURS = {"passed": "green", "failed": "red", "unknown": "yellow"}


def show(verdict: Verdict, console: Console, *, replay: str) -> None:
    """Print everything."""
    invariants = Table("invariant", "checked", "broken", title="What must hold")
    for name, meaning in INVARIANTS.items():
        if name in verdict.not_applicable:
            invariants.add_row(f"{name} {meaning}", "N/A", verdict.not_applicable[name], style="dim")
        else:
            broken = verdict.broken.get(name, 0)
            style = "red" if broken else None
            invariants.add_row(f"{name} {meaning}", f"{verdict.checked[name]:,}", str(broken), style=style)
    console.print(invariants)
    counts = Table("count", "", title="What happened")
    for name, count in verdict.counts.items():
        counts.add_row(name, f"{count:,}")
    console.print(counts)
    recovery = Table("recovery", "count", *SECONDS, title="How long it took")
    for name, figures in verdict.recovery.items():
        recovery.add_row(name, *(f"{figures[column]:g}" for column in ("count", *SECONDS)))
    console.print(recovery)
    hits = Table("fault", "effective hits", *SECONDS, title="What was done, and seconds until writes were back")
    for name, count in verdict.hits.items():
        seconds = verdict.back_after.get(name, {})
        told = (f"{seconds[column]:g}" if seconds else "" for column in SECONDS)
        hits.add_row(name, f"{count:,}", *told, style=None if count else "red")
    console.print(hits)
    for name, examples in verdict.examples.items():
        for example in examples:
            console.print(f"[red]{name}[/] {example}", markup=True, highlight=False)
    console.print(f"[bold {COLOURS[verdict.verdict]}]{verdict.verdict}[/]")
    for line in verdict.why:
        console.print(f"  {line}", highlight=False)
    console.print(f"run it again with: {replay}", highlight=False)
