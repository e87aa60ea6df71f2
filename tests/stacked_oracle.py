"""What stacked training is held against: each network alone, in a plain loop with torch's optimizers."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf

from bnlab.composing import compose
from bnlab.config.build import build_network
from bnlab.data import Batches, EpochOrder
from bnlab.stacked.data import load_data
from bnlab.stacked.job import Job
from bnlab.stacked.training import Training
from bnlab.stacked.trial import StackedTrial
from bnlab.training.optimizer import build_optimizer, build_scheduler

# As in the workers. MKL deals a product out to threads, and adds up in an order that depends on their number.
torch.set_num_threads(1)

BASE = ["trainer.accelerator=cpu", "model.hidden=[20,20]", "scheduler=cosine"]


def configs_of(common: Sequence[str], each: Sequence[dict]) -> list[DictConfig]:
    """A config a network: composed once, then the values that differ set."""
    base = compose([*BASE, *common])
    configs = []
    for values in each:
        config = base.copy()
        for key, value in values.items():
            OmegaConf.update(config, key, value)
        configs.append(config)
    return configs


def alone(config: DictConfig) -> dict[str, list[float]]:
    """The learning curve of one network."""
    data = load_data(config)
    dtype = torch.float64 if config.trainer.precision == "64-true" else torch.float32
    train, val = (data.split(name, dtype, torch.device("cpu")) for name in ("train", "val"))
    network = build_network(config, data.splits.sample_shape, data.splits.num_classes)
    optimizer = build_optimizer(config.optimizer, network.parameters())
    scheduler = build_scheduler(config.scheduler, optimizer)
    network.to(dtype)
    order = EpochOrder(len(train), config.seed)
    batch_size = None if config.data.batch_size == "full" else config.data.batch_size
    batches = Batches(train, batch_size, order)
    curves: dict[str, list[float]] = {
        name: [] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
    }
    steps = 0
    for epoch in range(config.trainer.max_epochs if config.trainer.max_epochs > 0 else 10**6):
        if steps == config.trainer.max_steps:
            break
        curves["lr"].append(optimizer.param_groups[0]["lr"])
        order.set_epoch(epoch)
        network.train()
        losses, hits, sizes = [], 0, []
        for x, y in batches:
            optimizer.zero_grad()
            logits = network(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            if config.trainer.gradient_clip_val:
                clip = (
                    torch.nn.utils.clip_grad_norm_
                    if config.trainer.gradient_clip_algorithm == "norm"
                    else torch.nn.utils.clip_grad_value_
                )
                clip(network.parameters(), config.trainer.gradient_clip_val)
            optimizer.step()
            losses.append(loss.item())
            hits += int((logits.argmax(1) == y).sum())
            sizes.append(len(y))
            steps += 1
            if steps == config.trainer.max_steps:
                break
        network.eval()
        with torch.no_grad():
            logits = network(val.x)
            curves["val_loss"].append(F.cross_entropy(logits, val.y).item())
        curves["val_accuracy"].append(float((logits.argmax(1) == val.y).double().mean()))
        curves["train_loss"].append(sum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes))
        curves["train_accuracy"].append(hits / sum(sizes))
        if scheduler is not None:
            scheduler.step()
    return curves


def stacked(configs: Sequence[DictConfig], folder: Path | None = None) -> list[StackedTrial]:
    """The trials of these configs, trained in one stack; nothing is left on disk, unless in `folder`."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as folder:
        trials = [StackedTrial(Job(index, config, Path(folder, str(index)))) for index, config in enumerate(configs)]
        data = load_data(configs[0])
        for trial in trials:
            trial.create()
        networks = [trial.build(data) for trial in trials]
        Training(trials, networks, data).run()
        return trials
