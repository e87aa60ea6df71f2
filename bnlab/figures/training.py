"""The figure of one training, with its curves."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bnlab.figures.scales import number_log_axis
from bnlab.figures.titles import wrapped
from bnlab.metrics import METRICS, metric_of
from bnlab.text.number_format import label

__all__ = ["COLOURS", "TITLE_POINTS", "TITLE_WIDTH", "curves", "fits_log_scale", "quantities", "with_divergence"]

TITLE_POINTS = 11
TITLE_WIDTH = 9.5  # inches, of 10
_PANEL_WIDTH = 5  # inches
COLOURS = {"train": "#0072B2", "val": "#D55E00"}  # Okabe and Ito's, which colour-blind readers can tell apart


def quantities(metrics: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """List the metrics in these columns of metrics.csv: the loss, the score, the user's own."""
    names = [name.removeprefix("val_") for name in metrics if name.startswith("val_")]
    return tuple(sorted(names, key=lambda name: (name != "loss", name not in METRICS)))


def curves(metrics: Mapping[str, Sequence[float]], title: str, best_epoch: float | None = None) -> Figure:
    """Draw each metric of training and validation against the epoch, side by side, and mark the best epoch.

    The title says where the training diverged.
    """
    shown = quantities(metrics)
    figure = Figure(figsize=(_PANEL_WIDTH * len(shown), 4.2))
    # The places are fixed, because the runs of a stack share their axes whatever their titles are.
    figure.subplots_adjust(left=0.14 / len(shown), right=1 - 0.04 / len(shown), bottom=0.12, top=0.84)
    figure.suptitle(wrapped(with_divergence(title, metrics), TITLE_WIDTH), fontsize=TITLE_POINTS, parse_math=False)
    epochs = metrics["epoch"]
    for axes, quantity in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
        for split, colour in COLOURS.items():
            marker = "o" if len(epochs) < 3 else None  # a line through one point cannot be seen
            axes.plot(epochs, metrics[f"{split}_{quantity}"], color=colour, marker=marker, label=split)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.6", linestyle=":", label="best epoch")
        # The places are fixed, like those of the axes.
        axes.set_title(label(quantity), fontsize=10, y=1)
        axes.set_xlabel("epoch")
        axes.xaxis.set_label_coords(0.5, -0.09)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        if metric_of(quantity).is_logarithmic and fits_log_scale(metrics):
            axes.set_yscale("log")  # otherwise, late epochs with a hundredth of the first loss would be a flat line
            number_log_axis(axes.yaxis, decades_apart=3)
        if metric_of(quantity).is_share:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return figure


def fits_log_scale(metrics: Mapping[str, Sequence[float]]) -> bool:
    """Whether all finite losses are positive."""
    finite = [value for split in COLOURS for value in metrics[f"{split}_loss"] if math.isfinite(value)]
    return bool(finite) and min(finite) > 0


def with_divergence(title: str, metrics: Mapping[str, Sequence[float]]) -> str:
    """Add to the title the epoch whose loss is not finite, if there is one."""
    for epoch, *losses in zip(metrics["epoch"], *(metrics[f"{split}_loss"] for split in COLOURS), strict=True):
        if not all(map(math.isfinite, losses)):
            return f"{title}: diverged in epoch {epoch:g}"
    return title
