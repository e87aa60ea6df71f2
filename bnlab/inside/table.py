"""The table of the layers of a network."""

import csv
import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from bnlab.comparison.screen import width_of
from bnlab.inside.layers import Layer

__all__ = ["COLUMNS", "meanings", "on_screen", "row_of", "to_csv"]

COLUMNS = ("layer", "units", "before", "after", "γ", "β", "mean off", "deviation off", "dead", "active")
_MEANINGS = {
    "before": "before: what goes into the norm, or comes out of the linear layer without one; mean ± deviation.",
    "after": "after: what comes out of the norm.",
    "γ": "γ, β: weight and bias of the norm; mean ± deviation over the units.",
    "mean off": "mean off: how far the running mean is from that of the batches, in deviations; median over the units.",
    "deviation off": "deviation off: the running deviation over that of the batches, less 1; median over the units.",
    "active": "active: the share of samples and units at which the activation has a slope.",
}


def row_of(layer: Layer) -> dict[str, float | str]:
    """Return the numbers of `COLUMNS`, mean and deviation separately, without those that the layer lacks.

        mean off = median(|running mean - m| / sqrt(v)),   deviation off = median(sqrt(running variance / v)) - 1
    where m and v are a unit's batch mean and batch variance, each averaged over the batches.
    """
    row: dict[str, float | str] = {"layer": layer.name, "units": layer.num_units}
    for name, values in (("before", layer.before), ("after", layer.after), ("γ", layer.weight), ("β", layer.bias)):
        if values is not None:
            row |= {f"{name} mean": _mean(values), f"{name} deviation": _deviation(values)}
    if layer.batches is not None and layer.running_mean is not None and layer.running_var is not None:
        mean, var = layer.batches.mean.mean(0), layer.batches.var.mean(0)
        is_live = var > 0  # a constant unit has no scale
        apart = (layer.running_mean - mean).abs() / var.sqrt()
        row["mean off"] = _median(apart[is_live])
        row["deviation off"] = _median((layer.running_var / var).sqrt()[is_live]) - 1
    if layer.active is not None and layer.num_dead is not None:
        row |= {"dead": layer.num_dead, "active": _mean(layer.active)}
    return row


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _deviation(values: Tensor) -> float:
    return float(values.double().std(correction=0))


def _median(values: Tensor) -> float:
    return float(values.double().median()) if values.numel() else 0.0


def on_screen(layers: Sequence[Layer], width: int) -> Table:
    """Lay out one row per layer, or one column per layer if only that fits into `width` characters.

    Quantities that no layer has are left out.
    """
    rows = [row_of(layer) for layer in layers]
    cells = [_cells(row) for row in rows]
    shown = [name for name in COLUMNS if any(name in of_row for of_row in cells)]
    grid = [[Text(name) for name in shown], *([Text(of_row.get(name, "")) for name in shown] for of_row in cells)]
    transposed = [list(column) for column in zip(*grid, strict=True)]
    if width_of(grid) > width > width_of(transposed):
        grid = transposed
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, heading in enumerate(grid[0]):
        table.add_column(heading, justify="right" if place else "left")
    for row in grid[1:]:
        table.add_row(*row)
    return table


def meanings(layers: Sequence[Layer]) -> list[str]:
    """Explain each shown column whose name does not explain itself, in one line."""
    there = {name for layer in layers for name in _cells(row_of(layer))}
    return [text for name, text in _MEANINGS.items() if name in there]


def _cells(row: dict[str, float | str]) -> dict[str, str]:
    cells = {"layer": str(row["layer"]), "units": str(row["units"])}
    for name in ("before", "after", "γ", "β"):
        if f"{name} mean" in row:
            cells[name] = _around(float(row[f"{name} mean"]), float(row[f"{name} deviation"]))
    if "mean off" in row:
        cells |= {"mean off": f"{row['mean off']:.3g}", "deviation off": f"{100 * float(row['deviation off']):+.2f} %"}
    if "dead" in row:
        cells |= {"dead": str(row["dead"]), "active": f"{100 * float(row['active']):.2f} %"}
    return cells


def _around(mean: float, deviation: float) -> str:
    """Write mean ± deviation with three decimals, or three digits if decimals would be too few or too many."""
    if deviation < 0.0005 or max(deviation, abs(mean)) >= 1000:
        return f"{mean:.3g} ± {deviation:.3g}"
    return f"{round(mean, 3) + 0.0:.3f} ± {deviation:.3f}"  # no -0.000


def to_csv(layers: Sequence[Layer]) -> str:
    """Write all numbers at full precision."""
    rows = [row_of(layer) for layer in layers]
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
