"""The figure of a search: its objective against each parameter."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnlab.figures.search_view import Axis, Box, SearchView
from bnlab.figures.titles import SIZE, wrapped

__all__ = ["search"]


def search(
    trials: Sequence[Mapping[str, Any]],
    axes: Mapping[str, Axis],
    objective: str,
    *,
    minimize: bool,
    title: str = "",
    rounds: Sequence[Sequence[Box]] = (),
) -> Figure:
    """Draw the objective of each trial against each parameter, on the parameter's scale, and mark the best trial.

    Colours show one factor with few choices, or the rounds. The axis of the objective spans the trials that completed;
    diverged and failed trials outside its range are drawn at its edge.

    Args:
        trials: with "status", "objective" (perhaps None), and by key the parameters that the trial has; optionally
            with "deviation" (over the seeds) and "round" (from 0).
        axes: per parameter its scale, or its choices in order, as they are in the trials.
        objective: the name of the metric.
        minimize: whether a lower objective is better.
        title: a description of what the trials have in common.
        rounds: in a coarse-to-fine search, the boxes of each round, for the parameters that have bounds.
    """
    view = SearchView(trials, axes, objective, minimize, rounds)
    panels_of = [key for key in axes if key != view.factor]
    plane = [key for key in panels_of if isinstance(axes[key], str)][:2] if len(rounds) > 1 else []
    num_panels = len(panels_of) + (len(plane) == 2)
    num_columns = min(num_panels, 3)
    num_rows = -(-num_panels // num_columns)
    handles = view.handles()
    num_lines = -(-len(handles) // (3 * num_columns))
    size = (1 + 3.6 * num_columns, 0.6 + 0.3 * bool(title) + 0.22 * num_lines + 3 * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(wrapped(title, size[0]), fontsize=SIZE, parse_math=False)
    first: Axes | None = None
    for index in range(num_panels):
        if index < len(panels_of):
            panel = figure.add_subplot(num_rows, num_columns, index + 1, sharey=first)
            first = first or panel
            view.draw(panel, panels_of[index], is_leftmost=index % num_columns == 0)
        else:
            view.draw_plane(figure.add_subplot(num_rows, num_columns, index + 1), *plane)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=-(-len(handles) // num_lines), frameon=False, fontsize=9
    )
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)
    return figure
