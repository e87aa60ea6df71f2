"""Checks what a folder that somebody else made may use: parts in a closed list, and nothing that reads this machine.

Run folders are sent around. Reading, evaluating or continuing one builds the targets in its config, so that a config
could call anything. Without the user's `trust`, only the targets below are built, and interpolations that read the
environment or files are not resolved.
"""

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnlab.config.folder import config_folder
from bnlab.data_sets import PUBLISHED
from bnlab.errors import UserError

__all__ = [
    "UNTRUSTED_DATA_SETS",
    "check_settings",
    "escape_machine_interpolations",
    "known_by_name",
    "known_target",
    "reasons_of_interpolations",
    "reasons_of_targets",
    "refuse",
]

# Public names of ours that none of our own configs uses.
_PUBLIC = ("bnlab.MLP", "bnlab.BatchNorm1d", "bnlab.search.CoarseToFineSampler")
_TARGET_OF_OURS = re.compile(r"^_target_: *(bnlab(?:\.\w+)+) *(?:#.*)?$", re.MULTILINE)
# Hydra builds these, since they belong to Lightning.
_LIGHTNINGS = {
    "lightning.pytorch.Trainer",
    "bnlab.engines.quick.QuickTrainer",  # replaced by Lightning's
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.loggers.TensorBoardLogger",
}
_TORCHS = ("torch.nn.", "torch.optim.")
_OPTUNAS = ("optuna.samplers.", "optuna.pruners.")
_CLASS_OF_A_LIBRARY = re.compile(r"(torch\.(nn|optim)|optuna\.(samplers|pruners))(\.[a-z_]\w*)*\.[A-Z]\w*")
# Torchvision's data sets that are checked against a published checksum before they are read.
UNTRUSTED_DATA_SETS = tuple(PUBLISHED)

# Interpolations that do not read the machine: of another setting, the time, or Hydra's values for the job.
_HARMLESS_RESOLVERS = {"now", "unique", "repeat", "hydra", "oc.select", "oc.dict.keys", "oc.dict.values"}
_RESOLVER = re.compile(r"\$\{\s*([^\s:${}]*)\s*(:|\$\{)?")


@functools.cache
def _ours() -> frozenset[str]:
    """Return the targets of ours that a folder may name: what the configs of the package choose, and `_PUBLIC`.

    So a target that accepts code or a file of code must not be in those configs. What Hydra builds for itself is left
    out: the configs under `hydra`, and targets that are nested, such as that of a callback.
    """
    folder = Path(config_folder())
    files = [file for file in folder.rglob("*.yaml") if file.relative_to(folder).parts[0] != "hydra"]
    return frozenset(_PUBLIC).union(*(_TARGET_OF_OURS.findall(file.read_text(encoding="utf-8")) for file in files))


@functools.cache
def known_target(name: str) -> Callable[..., Any] | None:
    """Return the object that the `_target_` `name` means, if it is a part of bnlab or a class of torch or Optuna.

    These classes are in `torch.nn`, `torch.optim`, and Optuna's samplers and pruners. Everything else gives None, under
    whatever name: `torch.nn.modules.module.torch.load` is no part of `torch.nn`.
    """
    is_of_library = name.startswith((*_TORCHS, *_OPTUNAS))
    if not is_of_library and name not in _ours():
        return None
    module, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None  # Hydra reports what is wrong
    is_its_class = _is_of_optuna if name.startswith(_OPTUNAS) else _is_of_torch
    return target if not is_of_library or is_its_class(target) else None


def known_by_name(name: str) -> bool:
    """Whether `known_target` probably knows `name`, judged without an import: for advice, not for safety."""
    return _CLASS_OF_A_LIBRARY.fullmatch(name) is not None or name in _ours()


def _is_of_torch(target: Any) -> bool:
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    return (
        isinstance(target, type)
        and issubclass(target, Module | Optimizer | LRScheduler)
        and f"{target.__module__}.".startswith(_TORCHS)
    )


def _is_of_optuna(target: Any) -> bool:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    return (
        isinstance(target, type)
        and issubclass(target, BaseSampler | BasePruner)
        and f"{target.__module__}.".startswith(_OPTUNAS)
    )


def check_settings(settings: Mapping[str, Any], owner: str, used: Sequence[str]) -> None:
    """Check that the unresolved settings of a folder use nothing that needs trust.

    Args:
        settings: as returned by `bnlab.io.yaml_text.read_yaml`.
        owner: the subject of the error, such as "The run in 'folder'".
        used: the groups whose targets will be built. Interpolations are checked in all settings of training and
            testing; elsewhere, `escape_machine_interpolations` handles them.
    Raises:
        UserError: a setting needs the user's trust.
    """
    built = {group: settings[group] for group in used if group in settings}
    refuse(
        owner,
        [*reasons_of_targets(built), *reasons_of_interpolations(_computed_with(settings))],
        "trust=True` (`--trust` for commands)",
    )


# The settings of training and testing; nobody reads those of the logger and the user's additions.
_COMPUTED_WITH = (
    *("task", "data", "model", "norm", "optimizer", "scheduler", "trainer", "seed", "objective", "num_threads"),
)


def _computed_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key in _COMPUTED_WITH}


def escape_machine_interpolations(settings: Any) -> Any:
    """Return the unresolved settings, with interpolations that would read the environment or files as plain text."""
    if isinstance(settings, Mapping):
        return {key: escape_machine_interpolations(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return list(map(escape_machine_interpolations, settings))
    if isinstance(settings, str) and _reads_this_machine(settings):
        return settings.replace("${", "\\${")
    return settings


def refuse(owner: str, reasons: Iterable[str], trusting: str) -> None:
    """Refuse the folder if there are reasons.

    Raises:
        UserError: there is a reason; `trusting` says how to trust the folder nevertheless.
    """
    for reason in reasons:
        raise UserError(
            f"{owner} {reason}, which could run code or read files on this machine: if you trust who made it, say so "
            f"with `{trusting}."
        )


def reasons_of_targets(settings: Any, is_known: Callable[[str], object] = known_target) -> Iterator[str]:
    """Yield the targets that need the user's trust, as "asks for 'os.system' in `model`"."""
    for key, node in _nodes(settings):
        if isinstance(node, Mapping) and "_target_" in node:
            yield from _reasons_of_target(node, key or "it", is_known)


def reasons_of_interpolations(settings: Any) -> Iterator[str]:
    """Yield the interpolations that need the user's trust."""
    for key, node in _nodes(settings):
        if isinstance(node, str) and _reads_this_machine(node):
            yield f"has the interpolation {node!r} in `{key}`"


def _reads_this_machine(text: str) -> bool:
    return any(colon and name not in _HARMLESS_RESOLVERS for name, colon in _RESOLVER.findall(text))


def _nodes(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every node with its key, such as a.b[0]."""
    yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _nodes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _nodes(value, f"{key}[{index}]")


def _reasons_of_target(settings: Mapping[str, Any], shown: str, is_known: Callable[[str], object]) -> Iterator[str]:
    target = settings["_target_"]
    if target is None or (isinstance(target, str) and target in _LIGHTNINGS):
        return
    if not isinstance(target, str) or not is_known(target):
        yield f"asks for {target!r} in `{shown}`"
    elif target.endswith(".from_torchvision") and settings.get("name") not in UNTRUSTED_DATA_SETS:
        yield f"asks for torchvision's data set {settings.get('name')!r} in `{shown}`"
