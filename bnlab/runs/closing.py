"""Shows the end of a run on screen: how it ended, its results, and what to look at next."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnlab.metrics import metrics_of
from bnlab.status import Status
from bnlab.text.command_line import command, override, shown, word
from bnlab.text.number_format import label, metric

if TYPE_CHECKING:
    from bnlab.runs.folder import RunFolder
    from bnlab.runs.summary import Summary

__all__ = ["closing_table", "headline", "show", "spark_line"]

_RAMP = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 30


def show(config: DictConfig, summary: "Summary", run: "RunFolder", console: Console) -> None:
    """Print the end of a run of `config` whose folder is complete."""
    status = summary["status"]
    style = {Status.COMPLETED: "bold green", Status.DIVERGED: "bold red"}.get(status, "bold yellow")
    console.print(headline(summary), style=style, highlight=False)
    console.print(closing_table(config, summary, run, is_plain=not console.encoding.startswith("utf")))
    for line in _next(config, summary, run):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def headline(summary: "Summary") -> str:
    status, epochs = summary["status"], summary.get("epochs")
    if status == Status.DIVERGED:
        return f"diverged: the loss of epoch {summary['diverged_epoch']} is not finite"
    if status in (Status.INTERRUPTED, Status.PRUNED):
        return f"{status} after {epochs} {'epoch' if epochs == 1 else 'epochs'}"
    return status


def closing_table(config: Mapping[str, Any], summary: "Summary", run: "RunFolder", *, is_plain: bool = False) -> Table:
    """Return the table of a run's results; with `is_plain`, without characters that a terminal may lack."""
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")  # the path is folded rather than cut, so that it can be copied whole
    if summary["status"] != Status.COMPLETED:
        style = "red" if summary["status"] == Status.DIVERGED else "yellow"
        table.add_row("status", Text(headline(summary), style=style))
    best = summary["best_epoch"]
    table.add_row("best epoch", f"{'none' if best is None else f'{best:.0f}'} of {summary['epochs']}")
    results: Mapping[str, Any] = summary
    measured = [name for name in metrics_of(config) if name != "loss"]
    for name in (*(f"val_{name}" for name in measured), "val_loss", *(f"test_{name}" for name in measured)):
        text = metric(name, results.get(name))
        curve = "" if is_plain else spark_line(_column(run.metrics, name))
        table.add_row(label(name), f"{text:8} {curve}".rstrip())
    table.add_row("seconds", f"{summary['seconds']:.1f}")
    table.add_row("folder", Text(shown(run.path)))
    return table


def spark_line(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """Draw a curve as one line of blocks, from its lowest to its highest value; × marks a value that is not finite.

    More than `width` values are thinned out evenly; the first and the last are kept.
    """
    if len(values) < 2:
        return ""
    if len(values) > width:
        values = [values[round(index * (len(values) - 1) / (width - 1))] for index in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_RAMP) - 1) / (high - low) if high > low else 0.0
    return "".join(_RAMP[round((value - low) * scale)] if math.isfinite(value) else "×" for value in values)


def _column(metrics: Path, name: str) -> list[float]:
    """Read a column of metrics.csv; it is empty if the file or the column is missing."""
    if not metrics.is_file():
        return []
    with metrics.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def _next(config: DictConfig, summary: "Summary", run: "RunFolder") -> list[str]:
    lines = []
    if run.curves.is_file():
        lines.append(f"Picture: {shown(run.curves)}")
    lines += _of_logger(config, run)
    if summary["status"] == Status.DIVERGED:
        lines.append(
            f"Diverged in epoch {summary['diverged_epoch']}: a smaller optimizer.lr, trainer.gradient_clip_val=1 or "
            "norm=batch may keep the loss finite."
        )
    elif summary["status"] == Status.INTERRUPTED:
        lines.append("Interrupted: the folder keeps the results so far. This continues the run:")
        lines.append(command([override("resume", shown(run.path))]))
    return lines


def _of_logger(config: DictConfig, run: "RunFolder") -> list[str]:
    """Say how to open what a logger has written."""
    logger: Any = config.logger
    kind = str(logger.get("_target_")).rpartition(".")[2]
    if kind == "TensorBoardLogger":
        folder = Path(str(logger.get("save_dir") or run.path)) / str(logger.get("name") or "")
        return [f"TensorBoard: tensorboard --logdir {word(shown(folder))}"]
    if kind == "MLFlowLogger":
        address = logger.get("tracking_uri")
        if address is None or str(address).startswith(("http:", "https:", "databricks")):
            return []
        return [f"MLflow: mlflow ui --backend-store-uri {word(str(address))}"]
    return []
