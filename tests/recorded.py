"""Folders of runs whose results are made up, as a training would have left them."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from bnlab.composing import compose
from bnlab.config.build import build_network, build_splits
from bnlab.data import Batches, EpochOrder, Normalization
from bnlab.metrics import minimizes
from bnlab.runs.folder import RunFolder
from bnlab.runs.history import History
from bnlab.runs.summary import beginning, best_of

composed = functools.cache(compose)


def record_network(folder: Path, *overrides: str, num_steps: int = 20) -> Path:
    """`record` with a checkpoint: the network of these overrides after a few steps of gradient descent on digits."""
    record(folder, *overrides)
    config = composed(overrides)
    splits = build_splits(config)
    normalization = Normalization.of(splits.train)
    network = build_network(config, splits.sample_shape, splits.num_classes).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for x, y in itertools.islice(Batches(splits.train, 64, EpochOrder(len(splits.train), 0)), num_steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(normalization(x)), y).backward()
        optimizer.step()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "DataModule": normalization.state_dict()}, RunFolder(folder).best_checkpoint)
    return folder


def record(
    folder: Path,
    *overrides: str,
    val_accuracy: Sequence[float] = (0.5, 0.9, 0.8),
    val_loss: Sequence[float] | None = None,
    test_accuracy: float | None = 0.85,
    status: str = "completed",
    error: str = "",
) -> Path:
    """A run with these overrides and these curves; those of the training are 0.05 better."""
    config = composed(overrides)
    run = RunFolder(folder)
    run.create(config, overrides)
    history = History(config.objective, minimize=minimizes(config))
    losses = [1 - accuracy for accuracy in val_accuracy] if val_loss is None else val_loss
    for epoch, (accuracy, loss) in enumerate(zip(val_accuracy, losses, strict=True), 1):
        metrics = {"train_accuracy": accuracy + 0.05, "val_accuracy": accuracy, "train_loss": loss, "val_loss": loss}
        history.add(epoch, 10 * epoch, 0.1, metrics)
    if history.rows:
        run.write_metrics(history.rows)
    summary = beginning(config, overrides) | {"status": status} | best_of(history.best, config)
    summary |= {"test_accuracy": test_accuracy, "test_loss": 0.5, "error": error}
    summary |= {"epochs": len(history.rows), "sample_shape": [1, 8, 8], "num_classes": 10}
    if status != "unfinished":
        run.write_summary({key: value for key, value in summary.items() if value != ""})
    return folder
