"""The plots of a report, all in one style: SVG, a title that says what is seen, and units on the axes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figures import ROLES
from benchmarks.rows import Row

WIDTH_INCHES = 8.0
STYLE = Path(__file__).with_suffix(".mplstyle")


def bars(file: Path, title: str, unit: str, rows: Sequence[Row]) -> None:
    """Draw one bar for each figure, with the range of its runs."""
    with style.context(STYLE):
        figure, axes = _canvas(title, height_inches=1.3 + 0.42 * len(rows))
        medians = [row.median for row in rows]
        low = [row.median - min(row.values) for row in rows]
        high = [max(row.values) - row.median for row in rows]
        axes.barh([row.what for row in rows], medians, xerr=[low, high], ecolor="#444444", capsize=3)
        _label_bars(axes, medians)
        axes.set_xlabel(unit)
        _save(figure, file)


def curves(file: Path, title: str, axis: str, unit: str, rows: Sequence[Row]) -> None:
    """Draw one line for each kind of figure along the scenario's axis, with the range of the runs."""
    with style.context(STYLE):
        figure, axes = _canvas(title, height_inches=4.0)
        places = sorted({row.at for row in rows if row.at is not None})
        for what in dict.fromkeys(row.what for row in rows):
            own = sorted((row for row in rows if row.what == what), key=lambda row: row.at or 0.0)
            at = [places.index(row.at) for row in own if row.at is not None]
            medians = [row.median for row in own]
            errors = [
                [row.median - min(row.values) for row in own],
                [max(row.values) - row.median for row in own],
            ]
            axes.errorbar(at, medians, yerr=errors, marker="o", capsize=3, label=what)
        # The places stand side by side, because zero and a million do not fit on one scale.
        axes.set_xticks(range(len(places)), [f"{place:,g}" if place < 1e6 else f"{place:,.0f}" for place in places])
        axes.set_xlabel(axis)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        _save(figure, file)


def cpu(file: Path, title: str, rows: Sequence[Row]) -> None:
    """Draw the CPU time of each role, end to end, for each figure."""
    with style.context(STYLE):
        figure, axes = _canvas(title, height_inches=1.7 + 0.42 * len(rows))
        names = [row.what if row.at is None else f"{row.what}: {row.at:,.0f}" for row in rows]
        left = [0.0] * len(rows)
        for role in ROLES:
            used = [row.cpu(role) for row in rows]
            axes.barh(names, used, left=left, label=role)
            left = [start + more for start, more in zip(left, used, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("microseconds of CPU a job, or a request")
        axes.legend(frameon=False, ncols=len(ROLES), loc="upper left", bbox_to_anchor=(0, -0.75 / len(rows) - 0.08))
        _save(figure, file)


def _canvas(title: str, *, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left")
    return figure, axes


def _label_bars(axes: Axes, values: Sequence[float]) -> None:
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
            (0, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color="white",
        )


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None})
