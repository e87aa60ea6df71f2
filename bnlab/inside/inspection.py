"""Inspects the best weights of a run on its data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from bnlab.comparison.settings import read_settings
from bnlab.comparison.title import parts_of
from bnlab.config.build import build_splits
from bnlab.data.batches import Batches, EpochOrder
from bnlab.data.fingerprint import fingerprint
from bnlab.data.splits import Split
from bnlab.errors import UserError, one_line
from bnlab.inside.layers import Layer, batch_statistics, layers_of
from bnlab.runs.reading import Run, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Inspection", "inspect"]

MOST_SAMPLES = 2048  # of the validation set, evenly spaced
MOST_BATCHES = 50


@dataclass(frozen=True)
class Inspection:
    """The layers of a run's network on its data.

    Attributes:
        title: the run's title.
        num_samples: the number of validation samples used.
        num_batches: the number of training batches used.
    """

    layers: Sequence[Layer]
    title: str
    num_samples: int
    num_batches: int

    def figure(self) -> "Figure":
        from bnlab.figures.inside import inside  # matplotlib takes half a second

        return inside(self.layers, self.title, self.notes()[0])

    def notes(self) -> list[str]:
        notes = [
            f"Values of {self.num_samples} samples of the validation in evaluation"
            + (f"; statistics of {self.num_batches} mini-batches of the training." if self.num_batches else ".")
        ]
        if any(layer.active is not None for layer in self.layers):
            notes.append(
                "A unit is dead where its activation has a slope below 0.01 at every sample: nothing teaches it."
            )
        return notes


def inspect(folder: str | Path, *, trust: bool = False) -> Inspection:
    """Inspect the run in `folder` on its validation samples, with the statistics of its training batches.

    If the data have changed but still have the same shape, a line on stderr says so.

    Args:
        trust: allow the run to name any code; see `bnlab.load`.
    Raises:
        UserError: the folder holds no run, its data are missing or of another shape, or it needs trust.
    """
    run = load(folder, trust=trust, used=("data", "model", "norm"))
    network = run.network
    try:
        splits = build_splits(run.config)
    except Exception as error:
        raise UserError(f"What {str(run.folder.config)!r} asks for cannot be built: {one_line(error)}") from error
    run.check_data(splits, fingerprint(splits))
    try:
        batches = batch_statistics(network, _training_batches(run, splits.train))
        layers = layers_of(network, _input(run, _evenly(splits.val.x)), batches)
    except Exception as error:
        raise UserError(
            f"The network of the run in {str(run.folder.path)!r} cannot be looked into: {one_line(error)}"
        ) from error
    if not layers:
        raise UserError(
            f"The network of the run in {str(run.folder.path)!r} has no layers to look into: modules of torch.nn for "
            "linear layers, convolutions, normalizations and activations are what can be seen."
        )
    settings: Any = OmegaConf.to_container(run.config, resolve=False)
    best = run.summary.get("best_epoch")
    title = ", ".join([*parts_of(read_settings(settings).values), f"seed {settings['seed']}", f"best epoch {best}"])
    num_batches = max((len(of_norm.mean) for of_norm in batches.values()), default=0)
    return Inspection(layers, title, min(len(splits.val), MOST_SAMPLES), num_batches)


def _evenly(x: Tensor) -> Tensor:
    if len(x) <= MOST_SAMPLES:
        return x
    return x[torch.linspace(0, len(x) - 1, MOST_SAMPLES).long()]


def _training_batches(run: Run, train: Split) -> Iterator[Tensor]:
    """Yield the first batches of the first epoch, as in training."""
    size = run.config.data.batch_size
    order = EpochOrder(len(train), run.config.seed)
    for x, _ in islice(Batches(train, None if size == "full" else int(size), order), MOST_BATCHES):
        yield _input(run, x)


def _input(run: Run, x: Tensor) -> Tensor:
    """Convert samples to the network's input."""
    dtype = next((p.dtype for p in run.network.parameters() if p.is_floating_point()), torch.float32)
    return (x if run.normalization is None else run.normalization(x)).to(dtype)
