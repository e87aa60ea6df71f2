"""Run only the training steps of a sweep, in one process, by plain PyTorch loops or by stacks."""

import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import nn

from bnlab.batch_norm import BatchNorm1d
from bnlab.config.settings import plain
from bnlab.network import MLP
from bnlab.stacked.data import load_data
from bnlab.stacked.formulas.metrics import StackedMetrics
from bnlab.stacked.networks.batches import StackedBatches
from bnlab.stacked.networks.mlp import StackedMLP
from bnlab.stacked.networks.optimizers import StackedOptimizer
from bnlab.stacked.processes.memory import chunk_size

__all__ = ["main", "plain_steps", "stacked_steps"]


def plain_steps(config: DictConfig, rates: Sequence[float]) -> Callable[[int], int]:
    """Make the loop of a PyTorch tutorial, over tensors in memory, one network after the other, without validation."""
    train = load_data(config).splits.train
    x, num_features = train.x.flatten(1), train.x[0].numel()

    def run(num_epochs: int) -> int:
        num_steps = 0
        for lr in rates:
            network = MLP(num_features, 10, hidden=config.model.hidden, norm=nn.BatchNorm1d)
            optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
            for _ in range(num_epochs):
                for indices in torch.randperm(len(x)).split(config.data.batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(network(x[indices]), train.y[indices]).backward()
                    optimizer.step()
                    num_steps += 1
        return num_steps

    return run


def stacked_steps(config: DictConfig, rates: Sequence[float]) -> Callable[[int], int]:
    """Make the loop of a worker of the stacked launcher, metrics included, without validation."""
    splits = load_data(config).splits
    train = StackedMLP.prepare(splits.train)
    size = chunk_size(plain(config), num_workers=1)

    def run(num_epochs: int) -> int:
        num_steps = 0
        for start in range(0, len(rates), size):
            chunk = rates[start : start + size]
            networks = [MLP(train.x.shape[1], 10, hidden=config.model.hidden, norm=BatchNorm1d) for _ in chunk]
            optimizers = [
                torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
                for network, lr in zip(networks, chunk, strict=True)
            ]
            model = StackedMLP(networks)
            optimizer = StackedOptimizer(optimizers, model.stack.rows, model.stack.gradients)
            batches = StackedBatches(train, config.data.batch_size, [config.seed] * len(chunk))  # as in a sweep
            with torch.no_grad():
                for epoch in range(num_epochs):
                    metrics = StackedMetrics()
                    for x, y in batches.epoch(epoch):
                        metrics.update(*model.step(x, y, optimizer), y.shape[-1])
                        num_steps += len(chunk)
                    metrics.compute("train")
        return num_steps

    return run


def main(name: str) -> None:
    """Run the steps of one process of the way `name`, timed from the first to the last, with the data in memory.

    The process reads the config, the learning rates and the epochs from stdin and, when it is ready, the word to start.
    It prints its processor time and the number of steps.
    """
    torch.set_num_threads(1)
    make = {"plain_steps": plain_steps, "stacked_steps": stacked_steps}[name]
    settings, rates, num_epochs = json.loads(sys.stdin.readline())
    config = OmegaConf.create(settings)
    make(config, rates[:1])(1)  # warm up: imports and first allocations happen once per process
    prepared = make(config, rates)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.process_time()
    num_steps = prepared(num_epochs)
    print(json.dumps([time.process_time() - start, num_steps]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
