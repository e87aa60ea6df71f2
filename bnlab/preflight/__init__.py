"""Checks without torch, whose import takes seconds: `check_early` refuses at once what is certain to fail.

In case of doubt, a check passes, and the error comes later.
"""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.preflight.callbacks import check_callbacks
from bnlab.preflight.data import check_data
from bnlab.preflight.machine import check_accelerator, check_logger
from bnlab.preflight.network import check_network
from bnlab.preflight.targets import check_target

__all__ = ["check_early"]

_GROUPS = ("data", "model", "norm", "optimizer", "scheduler", "trainer", "logger")


def check_early(config: DictConfig) -> None:
    """Check a config that obeys all rules (`bnlab.config.checking`) against this machine and its packages.

    Raises:
        UserError: it is certain to fail.
    """
    settings: Any = OmegaConf.to_container(config, resolve=True)
    for key in _GROUPS:
        _check_targets(key, settings.get(key))
    for group in ("callbacks", "metrics", "figures"):
        for name, node in (settings.get(group) or {}).items():
            _check_targets(f"{group}.{name}", node)
    check_callbacks(settings)
    check_network(settings)
    check_logger(settings)
    check_accelerator(settings)
    check_data(settings)


def _check_targets(key: str, node: Any) -> None:
    """Check the targets of the node and of all nodes below it."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str):
            check_target(f"{key}._target_", target)
        for name, value in node.items():
            _check_targets(f"{key}.{name}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_targets(f"{key}[{index}]", value)
