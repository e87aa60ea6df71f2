"""`python -m bnlab.bench train`: compare steps per second of bnlab, a plain loop and a Lightning template."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bnlab.composing import compose
from bnlab.config.build import build_network
from bnlab.data import DataModule
from bnlab.errors import report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.network import MLP
from bnlab.runs.folder import RunFolder
from bnlab.training.lightning.classifier import Classifier
from bnlab.training.lightning.fit import build_data, build_trainer, num_threads
from bnlab.training.lightning.progress_callback import ProgressBar
from bnlab.training.lightning.recorder import Recorder
from bnlab.training.optimizer import build_optimizer, build_scheduler
from bnlab.training.threads import use_threads

__all__ = ["main"]

BATCH_SIZE = 128
HIDDEN = (64, 128, 64)
LR = 1e-3


class StepClock(L.Callback):
    """Time from the first step of an epoch to the end of its last one, without validation and checkpoints."""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start = time.perf_counter()
        self._num_steps = 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._num_steps += 1
        self._end = time.perf_counter()

    def steps_per_second(self) -> float:
        return self._num_steps / (self._end - self._start)


def _network() -> MLP:
    return MLP(784, 10, hidden=HIDDEN, norm=nn.BatchNorm1d)


def plain_loop(x: Tensor, y: Tensor) -> float:
    """Train an epoch by the loop of a PyTorch tutorial, over tensors in memory; return the steps per second."""
    network = _network()
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    start = time.perf_counter()
    batches = torch.randperm(len(y)).split(BATCH_SIZE)
    for indices in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(x[indices]), y[indices]).backward()
        optimizer.step()
    return len(batches) / (time.perf_counter() - start)


def bnlab_run(config: Any, data: DataModule, *, whole: bool) -> float:
    """Train an epoch as `python -m bnlab.train` does; `whole` includes validation, metrics and checkpoints."""
    network = build_network(config, data.splits.sample_shape, data.splits.num_outputs)
    classifier = Classifier(
        network, partial(build_optimizer, config.optimizer), partial(build_scheduler, config.scheduler)
    )
    with tempfile.TemporaryDirectory() as folder, use_threads(num_threads(config, network, data)):
        run = RunFolder(Path(folder))
        run.create(config, [])
        clock = StepClock()
        progress = ProgressBar(Console(quiet=True))
        trainer = build_trainer(config, run, [progress, clock, Recorder(run, config.objective, minimize=False)])
        start = time.perf_counter()
        trainer.fit(classifier, data)
        seconds = time.perf_counter() - start
        return trainer.global_step / seconds if whole else clock.steps_per_second()


class _Template(L.LightningModule):
    """A module as most templates have it: metrics are logged at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        x, y = batch
        logits = self.network(x)
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        self.log("train_accuracy", (logits.argmax(1) == y).float().mean(), prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR)


def template(root: str, num_steps: int) -> float:
    """Train `num_steps` steps with torchvision's data set, transforms per sample, a DataLoader and `self.log`."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import MNIST

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    loader: DataLoader = DataLoader(MNIST(root, train=True, transform=transform), batch_size=BATCH_SIZE, shuffle=True)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as unseen, redirect_stdout(unseen):
        # A template keeps the Trainer's defaults: progress bar, logger and checkpoints are on.
        trainer = L.Trainer(default_root_dir=folder, max_steps=num_steps, callbacks=[clock], accelerator="cpu")
        trainer.fit(_Template(), loader)
    return clock.steps_per_second()


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m bnlab.bench train", description=__doc__)
    parser.add_argument(
        "--root",
        default="outputs/data",
        help="the folder that holds MNIST, or gets it (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="torch's threads (default: its own choice)")
    parser.add_argument("--template-steps", type=int, default=60, help="steps of (c) per round (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with report_user_errors():
        medians = measure(options.root, options.rounds, options.template_steps)
    Console().print(_table(medians, options.rounds))


def measure(root: str, num_rounds: int, template_steps: int) -> dict[str, float]:
    """Return the median steps per second of each way; the ways take turns, round after round."""
    config = compose(
        [
            "data=mnist",
            f"data.root={root}",
            f"data.batch_size={BATCH_SIZE}",
            f"model.hidden={list(HIDDEN)}",
            f"optimizer.lr={LR}",
            "trainer.max_epochs=1",
            "trainer.accelerator=cpu",
        ]
    )
    data = build_data(config)
    x, y = data.splits.train.x, data.splits.train.y
    ways: dict[str, Callable[[], float]] = {
        "(a) plain PyTorch loop": lambda: plain_loop(x, y),
        "(b) bnlab": lambda: bnlab_run(config, data, whole=False),
        "(b) with validation, files, set-up": lambda: bnlab_run(config, data, whole=True),
        "(c) usual Lightning template": lambda: template(root, template_steps),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with _quiet_lightning():
        for round_index in range(num_rounds + 1):
            for name, way in ways.items():
                rate = way()
                if round_index > 0:  # the first is a warm-up
                    rates[name].append(rate)
    return {name: median(values) for name, values in rates.items()}


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _table(medians: dict[str, float], num_rounds: int) -> Table:
    table = Table(
        title=f"MNIST, 784-64-128-64-10, batch {BATCH_SIZE}, medians of {num_rounds} interleaved rounds; "
        f"torch has {torch.get_num_threads()} threads, of which bnlab uses as many as suit the network",
        title_justify="left",
    )
    table.add_column("way")
    for column in ("steps/s", "x (a)", "x (c)"):
        table.add_column(column, justify="right")
    plain, slow = medians["(a) plain PyTorch loop"], medians["(c) usual Lightning template"]
    for name, rate in medians.items():
        table.add_row(name, f"{rate:.0f}", f"{rate / plain:.2f}", f"{rate / slow:.1f}")
    return table
