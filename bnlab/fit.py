"""Train one network from a config into a folder: build, fit, test, summarize."""

import logging
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig
from rich.console import Console

from bnlab.build import arguments_of, build_logger, build_network, build_splits, check_batch_sizes
from bnlab.classifier import Classifier
from bnlab.config import check, describe
from bnlab.data import DataModule
from bnlab.errors import one_line, user_errors
from bnlab.figures import curves
from bnlab.interrupt import InterruptBetweenSteps, Interrupted
from bnlab.network import num_parameters
from bnlab.optimizer import build_optimizer, build_scheduler
from bnlab.progress import ProgressBar
from bnlab.recorder import Recorder
from bnlab.runs import RunFolder
from bnlab.shared_process import forks_end_here
from bnlab.summary import Summary, beginning, closing_table, ending, headline
from bnlab.threads import suitable_num_threads, use_threads

__all__ = ["build_data", "build_trainer", "fit", "num_threads", "test"]


def fit(
    config: DictConfig,
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> Summary:
    """Train the network of `config`, test its best weights, and leave a run's folder (see `bnlab.runs`).

    Args:
        config: as `bnlab.compose` gives it.
        folder: where the run goes; made if it is not there.
        overrides: what made the config, kept so that the run can be repeated.
        console: where the progress bar and the closing table go; None for stdout.
        callbacks: of Lightning, beside those of the config; one that ended the training says so by `stopped`.
    Returns:
        what summary.json holds; its "status" is completed, diverged, pruned (by a callback) or interrupted.
    Raises:
        UserError: something that cannot work, found before any training; the folder's summary says status failed.
    """
    start = time.monotonic()
    console = console or Console()
    run = RunFolder(Path(folder))
    check(config)
    run.create(config, overrides)
    summary = beginning(config, overrides)
    try:
        with forks_end_here():
            summary |= _fit_and_test(config, run, console, callbacks)
    except BaseException as error:
        summary["error"] = one_line(error)
        raise
    finally:
        summary["seconds"] = time.monotonic() - start
        run.write_summary(summary)
    console.print(headline(summary), style="bold")
    console.print(closing_table(summary, run.path))
    return summary


def _fit_and_test(config: DictConfig, run: RunFolder, console: Console, callbacks: Sequence[L.Callback]) -> Summary:
    data = build_data(config)
    network = build_network(config, data.splits.sample_shape, data.splits.num_classes)
    check_batch_sizes(network, data.train_dataloader().sizes)
    classifier = Classifier(
        network, partial(build_optimizer, config.optimizer), partial(build_scheduler, config.scheduler)
    )
    with user_errors("`optimizer`, `scheduler`: "):
        classifier.configure_optimizers()  # what they refuse is found before the trainer starts
    recorder = Recorder(run, config.objective)
    with InterruptBetweenSteps() as interrupt, use_threads(num_threads(config, network, data)):
        trainer = build_trainer(config, run, [ProgressBar(console), recorder, interrupt, *callbacks])
        L.seed_everything(config.seed, workers=True, verbose=False)  # for layers that draw, such as dropout
        status, test_metrics = "completed", {}
        start = time.monotonic()
        try:
            try:
                trainer.fit(classifier, data)
            finally:
                fit_seconds = time.monotonic() - start
            if recorder.diverged_epoch is not None:
                status = "diverged"
            elif any(getattr(callback, "stopped", False) for callback in callbacks):
                status = "pruned"
            if recorder.best is not None:
                test_metrics = test(trainer, classifier, data, run.best_checkpoint)
        except (Interrupted, KeyboardInterrupt, SystemExit):  # the last is what Lightning makes of a second Ctrl-C
            if not interrupt.is_requested:
                raise
            status = "interrupted"
    if recorder.rows:
        run.write_figure(curves(recorder.columns(), describe(config), recorder.best_epoch))
    return ending(
        recorder,
        config.objective,
        status=status,
        steps=trainer.global_step,
        test_metrics=test_metrics,
        num_parameters=num_parameters(network),
        samples_per_second=classifier.num_samples_trained / fit_seconds,
        splits=data.splits,
    )


def build_data(config: DictConfig) -> DataModule:
    """The data of `config.data` in memory, normalized if it says so, in the order of `config.seed`."""
    return DataModule(
        build_splits(config), batch_size=config.data.batch_size, normalize=config.data.normalize, seed=config.seed
    )


def num_threads(config: DictConfig, network: torch.nn.Module, data: DataModule) -> int:
    """The threads of `config.num_threads`, which rounding depends on: testing again takes as many as training did."""
    batch_size = max(data.train_dataloader().sizes)
    return suitable_num_threads(config.get("num_threads", "auto"), num_parameters(network), batch_size)


def build_trainer(config: DictConfig, run: RunFolder, callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
    """Lightning's Trainer from `config.trainer`, with `callbacks` and those of `config.callbacks`.

    Raises:
        UserError: an argument that Lightning does not know or cannot serve on this machine.
    """
    _silence_lightning()
    with user_errors("`callbacks`: "):
        own = [instantiate(arguments_of(callback)) for callback in config.callbacks.values()]
    logger = build_logger(config, run.path)
    if logger:
        with user_errors("`logger`: "):  # here loggers first reach for their servers
            logger.log_hyperparams(arguments_of(config))
    # Every step is logged where a callback logs steps; else Lightning warns of short epochs.
    defaults = {"log_every_n_steps": 1, "profiler": Unprofiled()}
    with user_errors("`trainer`: "):
        return instantiate(
            defaults | arguments_of(config.trainer),
            callbacks=[*callbacks, *own],
            logger=logger,
            default_root_dir=str(run.path),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )


class Unprofiled(PassThroughProfiler):
    """Lightning opens 70 contexts a step for a profiler that does nothing; one for all saves 50 µs of each step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


def test(trainer: L.Trainer, classifier: Classifier, data: DataModule, checkpoint: Path) -> dict[str, float]:
    """{"test_loss", "test_accuracy"} of the weights in `checkpoint`."""
    weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    classifier.load_state_dict(weights)
    trainer.test(classifier, data, verbose=False)
    return {name: classifier.epoch_metrics[name] for name in ("test_loss", "test_accuracy")}


def _silence_lightning() -> None:
    """Leave its warnings to the user; drop remarks on devices, advertisements, and a warning that is for Lightning."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
