"""Figures of a user's own: functions of a run, and one of a sweep."""

from matplotlib.figure import Figure

from bnlab.runs.reading import Run
from bnlab.runs.sweeps import Sweep


def learning_rate(run: Run, color: str = "black") -> Figure:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot(run.metrics["epoch"], run.metrics["lr"], color=color)
    axes.set_title(f"{run.summary['parameters']} numbers")
    return figure


def weights(run: Run) -> Figure:
    figure = Figure(figsize=(4, 3))
    figure.subplots().hist(next(run.network.parameters()).detach().flatten().numpy())
    return figure


def seconds(sweep: Sweep) -> Figure:
    figure = Figure(figsize=(4, 3))
    figure.subplots().bar(sweep.metrics["number"], sweep.metrics["seconds"])
    return figure


def raises(subject: object) -> Figure:
    raise ZeroDivisionError("of\nthe figure")


def text(subject: object) -> str:
    return "no figure"
