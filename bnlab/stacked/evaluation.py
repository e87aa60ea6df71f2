"""Build one model from K networks, and evaluate it on a split."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bnlab.data.batches import EVALUATION_BATCH_SIZE
from bnlab.data.splits import Split, Splits
from bnlab.data.target_scale import TargetScale
from bnlab.stacked.formulas.criterion import CLASSES, NUMBERS, Criterion
from bnlab.stacked.formulas.metrics import StackedMetrics
from bnlab.stacked.networks.mlp import StackedMLP
from bnlab.stacked.networks.module import StackedModule
from bnlab.training.own_metrics import OwnMetrics

__all__ = ["DTYPES", "collect", "criterion_of", "evaluate", "stacked_model"]

DTYPES = {"32-true": torch.float32, "64-true": torch.float64}


def stacked_model(
    networks: Sequence[nn.Module], dtype: torch.dtype | None = None, criterion: Criterion = CLASSES
) -> StackedMLP | StackedModule:
    """Stack the networks, layer by layer if all layers are known, else by vmap."""
    kind = StackedMLP if all(map(StackedMLP.takes, networks)) else StackedModule
    return kind(networks, dtype, criterion)


def criterion_of(splits: Splits, *, keeps_outputs: bool = False) -> tuple[Criterion, TargetScale | None]:
    """Return the criterion for these data, and the scale of their targets if these are numbers."""
    criterion, scale = (NUMBERS, splits.target_scale) if splits.num_classes is None else (CLASSES, None)
    return (replace(criterion, keeps_outputs=True) if keeps_outputs else criterion), scale


def evaluate(
    model: StackedMLP | StackedModule,
    split: Split,
    stage: str,
    scale: TargetScale | None,
    own: Sequence[OwnMetrics] = (),
) -> list[dict[str, float]]:
    """Compute the metrics of each network on `split`, as `model.prepare` returns it.

    Args:
        scale: the scale of the targets of a regression; None for classes.
        own: the user's own metrics for each network, which collect the outputs; empty if there are none.
    """
    metrics = StackedMetrics(scale)
    for x, y in zip(split.x.split(EVALUATION_BATCH_SIZE), split.y.split(EVALUATION_BATCH_SIZE), strict=True):
        metrics.update(*model.evaluate(x, y), len(y))
        collect(model, y, own)
    return metrics.compute(stage)


def collect(model: StackedMLP | StackedModule, y: Tensor, own: Sequence[OwnMetrics]) -> None:
    """Update the metrics of each network with its outputs for the newest batch, whose labels are y, (K, N) or (N,)."""
    for index, metrics in enumerate(own):
        assert model.outputs is not None
        metrics.update(model.outputs[index], y if y.dim() == 1 else y[index])
