"""Check that this machine has the accelerator and the logger's package."""

import ctypes
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

from bnlab.errors import UserError
from bnlab.rules import one_of

__all__ = ["check_accelerator", "check_logger"]

_TRAINERS = ("lightning.pytorch.Trainer", "bnlab.engines.quick.QuickTrainer")
_ACCELERATORS = one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu")
_PACKAGES = {
    "lightning.pytorch.loggers.TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "lightning.pytorch.loggers.MLFlowLogger": ("mlflow",),
    "lightning.pytorch.loggers.WandbLogger": ("wandb",),
}


def check_logger(settings: Mapping[str, Any]) -> None:
    """Check the logger.

    Raises:
        UserError: the package that the logger needs is not installed.
    """
    target = str((settings.get("logger") or {}).get("_target_"))
    packages = _PACKAGES.get(target, ())
    if packages and not any(map(importlib.util.find_spec, packages)):
        name = target.rpartition(".")[2]
        raise UserError(
            f"`logger` is a {name}, which needs a package: run pip install {packages[0]}, or choose logger=csv."
        )


def check_accelerator(settings: Mapping[str, Any]) -> None:
    """Check the accelerator.

    Raises:
        UserError: it is unknown, or this machine does not have it.
    """
    trainer = settings["trainer"]
    accelerator = trainer.get("accelerator")
    if trainer.get("_target_") not in _TRAINERS or not isinstance(accelerator, str):
        return
    _ACCELERATORS.check("trainer.accelerator", accelerator)
    missing = {
        "gpu": sys.platform != "darwin" and _has_no_cuda(),
        "cuda": _has_no_cuda(),
        "mps": sys.platform != "darwin",
    }
    if missing.get(accelerator):
        raise UserError(
            f"`trainer.accelerator` must be available, but got {accelerator!r} on a machine without one that torch "
            "can use: choose trainer.accelerator=cpu, or auto."
        )


def _has_no_cuda() -> bool:
    """Whether it is certain that torch finds no GPU: it was built without CUDA, or the driver is missing."""
    try:
        build = importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return False
    if build == "cpu":
        return True
    if build.startswith("rocm") or sys.platform != "linux":
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False
