"""Raw results: files of figures, and the rows that their runs make."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(slots=True)
class Row:
    """One figure over all of its runs."""

    scenario: str
    what: str
    at: float | None
    unit: str
    values: list[float] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)
    generator_percent: list[float] = field(default_factory=list)
    loops_ms: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The value that half of the runs reach."""
        return statistics.median(self.values)

    def cpu(self, role: str) -> float:
        """The median CPU time of a role, in microseconds a job."""
        return statistics.median(used[role] for used in self.cpu_us)


def read_results(file: Path) -> dict[str, Any]:
    """Read a file of raw results.

    Raises:
        ValueError: It is none; the message names it.
    """
    try:
        results: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if results.get("format") != FORMAT:
        raise ValueError(f"{file} holds no raw results in format {FORMAT}; give a file that `bench --json` wrote")
    return results


def gather_rows(results: Iterable[dict[str, Any]]) -> list[Row]:
    """Bring the runs of each figure together, in the order in which they were first measured."""
    rows: dict[tuple[Any, ...], Row] = {}
    for result in results:
        for figure in result["figures"]:
            key = figure["scenario"], figure["what"], figure["at"], figure["unit"]
            row = rows.setdefault(key, Row(*key))
            row.values.append(figure["value"])
            row.loops_ms.extend(figure["loops_ms"])
            if figure["cpu_us"]:
                row.cpu_us.append(figure["cpu_us"])
                row.generator_percent.append(figure["generator_percent"])
    return list(rows.values())
