"""Build the objects of a checked config, in which every group is a `_target_` and its arguments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from bnlab.config.settings import WIDTHS
from bnlab.data.splits import Splits, as_splits
from bnlab.errors import UserError, user_errors
from bnlab.internals.hydra_internals import get_object, instantiate
from bnlab.network import has_batch_norm
from bnlab.task import task_of

__all__ = ["arguments_of", "build_logger", "build_metric", "build_network", "build_splits", "check_batch_sizes"]


def arguments_of(config: DictConfig, *not_for_the_target: str) -> dict[str, Any]:
    """Return the group as a plain dict for Hydra's `instantiate`, without the keys that bnlab itself reads."""
    arguments: Any = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in arguments.items() if key not in not_for_the_target}


def build_splits(config: DictConfig) -> Splits:
    """Load the data set of `config.data`, not normalized.

    Raises:
        UserError: it is missing, cannot be read or trained on, or its settings are impossible.
    """
    with user_errors("`data`: "):
        splits = as_splits(
            instantiate(arguments_of(config.data, "batch_size", "normalize", "normalize_target"), _convert_="all")
        )
    if splits.task != task_of(config):
        raise UserError(_WRONG_TASK[splits.task])
    return splits


_WRONG_TASK = {
    "regression": (
        "`task` must be 'regression' for these data, whose targets are real numbers, but got 'classification': add "
        "task=regression."
    ),
    "classification": (
        "`task` must be 'classification' for these data, whose targets are classes, but got 'regression': choose data "
        "with numbers to predict, such as data=diabetes or data=csv."
    ),
}


def build_network(config: DictConfig, sample_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """Build the network of `config.model` and `config.norm` with the initial weights of `config.seed`.

    The weights depend on the seed alone: the global generator is seeded for them and then restored.

    Raises:
        UserError: the network is impossible.
    """
    norm = config.norm
    layers: dict[str, Any] = {"norm": None}
    with user_errors("`norm`: "):
        if norm._target_ is not None:
            layers = {
                "norm": instantiate({**arguments_of(norm, "placement"), "_partial_": True}, _convert_="all"),
                "placement": norm.get("placement", "before"),
            }
    with user_errors("`model`: "), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return instantiate(
            arguments_of(config.model, *(WIDTHS if "hidden" in config.model else ())),
            input_shape=sample_shape,
            num_classes=num_outputs,
            **layers,
            _convert_="all",
        )


def check_batch_sizes(network: nn.Module, sizes: Sequence[int]) -> None:
    """Check the batch sizes of a network.

    Raises:
        UserError: a batch has one sample, and the network has batch norm.
    """
    if has_batch_norm(network) and min(sizes) == 1:
        raise UserError(
            "`data.batch_size` must be at least 2 with batch norm, which needs a variance over the batch, but got 1; "
            "norm=none trains on single samples."
        )


def build_metric(name: str, settings: DictConfig) -> Any:
    """Build `metrics.name`: an object with `update`, `compute` and `reset`, or a function of outputs and labels.

    A class is instantiated with its arguments; a function gets them at each call.

    Raises:
        UserError: it cannot be built, or is neither.
    """
    arguments = arguments_of(settings, "higher_is_better")
    with user_errors(f"`metrics.{name}`: "):
        is_class = isinstance(get_object(arguments["_target_"]), type)
        metric = instantiate(arguments if is_class else {**arguments, "_partial_": True}, _convert_="all")
    if not all(callable(getattr(metric, part, None)) for part in ("update", "compute", "reset")) and not callable(
        metric
    ):
        raise UserError(
            f"`metrics.{name}` must be a metric like those of torchmetrics, or a function of outputs and labels, but "
            f"{arguments['_target_']} is neither."
        )
    return metric


def build_logger(config: DictConfig, folder: Path) -> Any:
    """Build the Lightning logger of `config.logger`; False if only metrics.csv is wanted.

    Raises:
        UserError: the package it needs is not installed.
    """
    logger = config.logger
    if logger._target_ is None:
        return False
    with user_errors("`logger`: "):
        arguments = arguments_of(logger)
        if arguments.get("save_dir", "") is None:
            arguments["save_dir"] = str(folder)
        return instantiate(arguments, _convert_="all")
