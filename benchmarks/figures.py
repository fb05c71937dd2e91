"""What a scenario yields: figures, with the CPU time behind them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.stage import Stage

ROLES = ("PostgreSQL", "server", "worker", "generator")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        at: The place on the scenario's axis, for figures that belong to a curve.
        cpu_us: Microseconds of CPU time for each job (or request), by role.
        generator_percent: How much of the whole machine's CPU the load generator used itself.
    """

    what: str
    value: float
    unit: str
    at: float | None = None
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    generator_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One part of the suite.

    Attributes:
        title: What is seen, as a sentence; the heading of its part of the report.
        run: Measures on a fresh stage; the flag asks for a short run that only shows that it works.
        axis: What the figures' `at` counts, with its unit.
    """

    name: str
    title: str
    run: "Callable[[Stage, bool], Iterator[Figure]]"
    axis: str = ""
