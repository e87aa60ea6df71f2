"""Train one network by Lightning from a config into a folder: build, fit, test, summarize."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar as LightningsBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from rich.console import Console

from bnlab.config.build import arguments_of, build_logger, build_network, build_splits, check_batch_sizes
from bnlab.config.confidential import settings_to_write
from bnlab.config.description import describe
from bnlab.data import DataModule
from bnlab.errors import UserError, one_line, user_errors
from bnlab.figures import curves
from bnlab.internals.hydra_internals import instantiate
from bnlab.metrics import minimizes
from bnlab.network import num_parameters
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Owner, Summary, ending
from bnlab.status import Status
from bnlab.training.interrupt import Interrupted
from bnlab.training.lightning.callbacks import build_callbacks
from bnlab.training.lightning.classifier import Classifier
from bnlab.training.lightning.interrupt_callback import InterruptBetweenSteps
from bnlab.training.lightning.learner import Learner
from bnlab.training.lightning.progress_callback import ProgressBar
from bnlab.training.lightning.recorder import AtomicCheckpoints, Recorder
from bnlab.training.lightning.regressor import Regressor
from bnlab.training.optimizer import build_optimizer, build_scheduler, check_length, try_out
from bnlab.training.own_metrics import OwnMetrics
from bnlab.training.resumed import Resumed
from bnlab.training.single_run import carry_out
from bnlab.training.threads import suitable_num_threads, use_threads

if TYPE_CHECKING:
    from bnlab.search.study.pruning import Pruning

__all__ = ["build_data", "build_learner", "build_trainer", "fit_and_test", "fit_by_lightning", "num_threads", "test"]


def fit_by_lightning(
    config: DictConfig,
    folder: str | Path,
    *,
    overrides: Sequence[str] | None = None,
    command: str | None = None,
    sweep: Owner | None = None,
    console: Console | None = None,
    callbacks: Sequence[L.Callback] = (),
    pruning: "Pruning | None" = None,
    resumes: RunFolder | None = None,
) -> Summary:
    """Do what `bnlab.engines.fit.fit` does for a config whose `trainer` is Lightning's."""
    console = console or Console()
    train = partial(fit_and_test, config, console, callbacks, pruning)
    about: dict[str, Any] = {"overrides": overrides, "command": command, "sweep": sweep, "resumes": resumes}
    return carry_out(config, folder, train, console=console, **about)


def fit_and_test(
    config: DictConfig,
    console: Console,
    callbacks: Sequence[L.Callback],
    pruning: "Pruning | None",
    run: RunFolder,
    summary: Summary,
    resumed: Resumed | None = None,
) -> None:
    """Do the part of `fit_by_lightning` between the first file and the summary."""
    if pruning is not None:
        from bnlab.training.lightning.pruning_callback import PruningCallback

        callbacks = [*callbacks, PruningCallback(pruning)]
    data = build_data(config)
    network = build_network(config, data.splits.sample_shape, data.splits.num_outputs)
    check_batch_sizes(network, data.train_dataloader().sizes)
    learner = build_learner(
        config, network, data, partial(build_optimizer, config.optimizer), partial(build_scheduler, config.scheduler)
    )
    recorder = Recorder(run, config.objective, minimize=minimizes(config), resumed=resumed)
    with InterruptBetweenSteps() as interrupt, use_threads(num_threads(config, network, data)):
        trainer = build_trainer(config, run, [ProgressBar(console), recorder, interrupt, *callbacks])
        _check_limits(trainer, data)
        with user_errors("`optimizer`, `scheduler`: "):  # they refuse mistakes before the trainer starts
            configured = learner.configure_optimizers()
            if isinstance(configured, dict):
                check_length(configured["lr_scheduler"]["scheduler"], config.trainer.max_epochs)
            if resumed is not None:
                trainer.precision_plugin.convert_module(learner)  # before weights are loaded, or they lose digits
                _prepare(resumed, run, recorder, learner, configured)
            try_out(config.optimizer, trainer.strategy.root_device)
        L.seed_everything(config.seed, workers=True, verbose=False)  # for layers that draw, such as dropout
        status, test_metrics = Status.FAILED, {}
        start = time.monotonic()
        try:
            try:
                with _user_errors_of_lightning(learner):
                    trainer.fit(learner, data, ckpt_path=None if resumed is None else str(resumed.path))
            finally:
                fit_seconds = time.monotonic() - start
            if not recorder.rows:
                raise UserError("No epoch was trained: a time limit or a callback ended the training before the first.")
            if recorder.best is not None:
                test_metrics = test(trainer, learner, data, run.best_checkpoint)
            if recorder.diverged_epoch is not None:
                status = Status.DIVERGED
            elif any(getattr(callback, "stopped", False) for callback in callbacks):
                status = Status.PRUNED
            else:
                status = Status.COMPLETED
        except (Interrupted, KeyboardInterrupt, SystemExit):  # Lightning turns a second Ctrl-C into the last
            if not interrupt.is_requested:
                raise
            status = Status.INTERRUPTED
        finally:
            if recorder.rows or status == Status.INTERRUPTED:
                summary |= ending(
                    recorder,
                    config,
                    status=status,
                    steps=trainer.global_step,
                    test_metrics=test_metrics,
                    num_parameters=num_parameters(network),
                    samples_per_second=learner.num_samples_trained / fit_seconds,
                    splits=data.splits,
                    fingerprint=data.fingerprint,
                )
            if recorder.rows:
                # A picture that cannot be written must not hide why the run failed.
                with suppress(OSError) if status == Status.FAILED else nullcontext():
                    run.write_figure(curves(recorder.columns(), describe(config), recorder.best_epoch))


def _prepare(resumed: Resumed, run: RunFolder, recorder: Recorder, learner: Learner, configured: Any) -> None:
    """Make the learner continue with what the config says now, and the run's folder hold what came before."""
    is_scheduled = isinstance(configured, dict)
    optimizer = configured["optimizer"] if is_scheduled else configured
    scheduler = configured["lr_scheduler"]["scheduler"] if is_scheduled else None
    resumed.check_network(learner.network)
    learner.replaced_in_checkpoint = resumed.with_settings_of(optimizer, scheduler)
    resumed.hand_over_best(recorder.best, run)
    run.write_metrics(recorder.rows)


def _check_limits(trainer: L.Trainer, data: DataModule) -> None:
    """Refuse a limit that leaves no batches.

    Raises:
        UserError: a fraction of the batches amounts to none.
    """
    for name in ("train", "val", "test"):
        limit, num_batches = getattr(trainer, f"limit_{name}_batches"), len(getattr(data, f"{name}_dataloader")())
        if isinstance(limit, float) and int(limit * num_batches) == 0:
            raise UserError(
                f"`trainer.limit_{name}_batches` must be at least one of the {num_batches} batches, but got {limit!r}: "
                "a whole number says how many."
            )


@contextmanager
def _user_errors_of_lightning(learner: Learner) -> Iterator[None]:
    """Make a `UserError` of any error before the first step, and of any misconfiguration that Lightning reports."""
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if learner.num_samples_trained == 0 or isinstance(error, MisconfigurationException):
            raise UserError(f"`trainer`, `callbacks`: {one_line(error)}") from error
        raise


def build_data(config: DictConfig) -> DataModule:
    """Load the data of `config.data`, normalized if it says so, in the order that `config.seed` gives."""
    return DataModule(
        build_splits(config),
        batch_size=config.data.batch_size,
        normalize=config.data.normalize,
        normalize_target=config.data.get("normalize_target", True),
        seed=config.seed,
    )


def build_learner(config: DictConfig, network: torch.nn.Module, data: DataModule, *arguments: Any) -> Learner:
    """Build the LightningModule for the kind of the data's labels.

    Args:
        arguments: functions that make its optimizer and its schedule (`Learner`); none if the network is only tested.
    """
    splits = data.splits
    scale = splits.target_scale if splits.num_classes is None else None
    named: dict[str, Any] = {}
    if config.get("metrics"):
        named["make_own_metrics"] = partial(OwnMetrics, config, scale)
    if scale is not None:
        return Regressor(network, *arguments, scale=scale, **named)
    return Classifier(network, *arguments, num_classes=splits.num_classes, **named)


def num_threads(config: DictConfig, network: torch.nn.Module, data: DataModule) -> int:
    """Return the number of threads. Rounding depends on it, so testing again must use as many as training did."""
    batch_size = max(data.train_dataloader().sizes)
    return suitable_num_threads(config.get("num_threads", "auto"), num_parameters(network), batch_size)


def build_trainer(config: DictConfig, run: RunFolder, callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
    """Build Lightning's Trainer from `config.trainer`, with `callbacks` and those of `config.callbacks`.

    A progress bar of Lightning's among these replaces ours.

    Raises:
        UserError: Lightning does not know an argument or does not support it on this machine, or a callback or strategy
            cannot be used in a run.
    """
    _silence_lightning()
    own = build_callbacks(config, run.path)
    has_bar = any(isinstance(callback, LightningsBar) for callback in own)
    wants_bar = config.trainer.get("enable_progress_bar") is not False
    if has_bar or not wants_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    logger = build_logger(config, run.path)
    if logger:
        with user_errors("`logger`: "):  # loggers first contact their servers here
            logger.log_hyperparams(settings_to_write(config))
    # Every step is logged if a callback logs steps; otherwise Lightning would warn of short epochs.
    defaults = {
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    given = defaults | arguments_of(config.trainer, "enable_progress_bar")
    objects = {} if "profiler" in given else {"profiler": Unprofiled()}  # an object, which a config cannot hold
    with user_errors("`trainer`: "):
        trainer = instantiate(
            given,
            **objects,
            callbacks=[*callbacks, *own],
            logger=logger,
            default_root_dir=str(run.path),
            enable_progress_bar=has_bar and wants_bar,
            _convert_="all",
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise UserError(
            f"`trainer` must train in one process on one device, but got {trainer.num_devices} devices and "
            f"{type(trainer.strategy).__name__}: set trainer.devices=1."
        )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # keep the user's own
        trainer.strategy.checkpoint_io = AtomicCheckpoints()
    return trainer


class Unprofiled(PassThroughProfiler):
    """This replaces Lightning's idle profiler, which makes dozens of contexts per step; delete it when it makes none.

    Figures: bnlab/bench/records/library_functions.md.
    """

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


def test(trainer: L.Trainer, learner: Learner, data: DataModule, checkpoint: Path) -> dict[str, float]:
    """Return the test metrics of the weights in `checkpoint`, such as {"test_loss": ..., "test_accuracy": ...}."""
    weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    learner.load_state_dict(weights)
    trainer.test(learner, data, verbose=False)
    return {name: value for name, value in learner.epoch_metrics.items() if name.startswith("test_")}


def _silence_lightning() -> None:
    """Keep Lightning's warnings for the user; drop device remarks, advertisements and a warning for its developers."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", module="lightning")
    # Where SLURM is installed, Lightning explains in five lines how to train on several machines.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for asked_for in ("callbacks", "profilers"):
        logging.getLogger(f"lightning.pytorch.{asked_for}").setLevel(logging.INFO)
