"""The losses of several trainings as one figure, for ``make report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lorweb_mini.errors import InputError
from lorweb_mini.show.style import COLOURS, figure_of, styled


@styled
def loss_panels(logs: Mapping[str, Sequence[Mapping[str, float]]], columns: int = 3) -> Figure:
    """Loss against samples of several trainings, a small panel each, both axes logarithmic.

    Args:
        logs: name of a part to the rows of its log.

    Raises:
        InputError: no logs, or an empty one.
    """
    if not logs or not all(logs.values()):
        raise InputError(f"expected logs with at least one row, got { ({k: len(v) for k, v in logs.items()}) }")
    rows = -(-len(logs) // columns)
    figure, grid = figure_of(3.2 * columns, 2.45 * rows, nrows=rows, ncols=columns, squeeze=False)
    for axes, (name, steps) in zip(grid.flat, logs.items(), strict=False):
        axes.loglog([row["samples"] for row in steps], [row["loss"] for row in steps], color=COLOURS[0])
        length = f"{steps[-1]['samples']:,.0f} in {steps[-1]['seconds'] / 60:.0f} min"
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_title(length, loc="right", size=8, weight="normal")
        axes.set(xlabel="samples", ylabel="loss (mean of 100 steps)")
        # Less than a decade has hardly a power of ten to label: plain values in between, too.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8), numticks=99))
        axes.yaxis.set_major_formatter("{x:g}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
    for axes in grid.flat[len(logs) :]:
        axes.set_axis_off()
    return figure
