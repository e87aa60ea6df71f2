"""What `+key=value` adds: a run has to read it, or the class that the group names has to take it."""

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.command_line import Origin, given_overrides, key_of, typed
from bnlab.config.folder import config_folder
from bnlab.errors import UserError
from bnlab.mistakes.overrides import Overrides
from bnlab.mistakes.signature import arguments_of_target
from bnlab.mistakes.vocabulary import vocabulary_of
from bnlab.read_settings import is_unread
from bnlab.resemblance import closest, did_you_mean

__all__ = ["check_added", "refuse_unread"]

log = logging.getLogger(__name__)


def check_added(config: DictConfig, hydra: Any, *, warns: bool = True) -> None:
    """Of a single run, whose composed config and `hydra` node these are; `warns` of what is added in vain.

    Raises:
        UserError: something was added that nothing takes, and that is like the name of something else.
    """
    lines = given_overrides(hydra.overrides.task)
    unread = []
    for line in lines:
        key = key_of(line)
        if not line.startswith("+") or key in hydra.runtime.choices or "@" in key:
            continue
        if OmegaConf.select(config, key, default=None, throw_on_resolution_failure=False) is None:
            continue
        refuse_untaken(line, config, Origin.of(hydra, config_folder()))
        if is_unread(config, key) is not None and not _is_interpolated(key, config):
            refuse_unread(line, lines, Origin.of(hydra, config_folder()))
            unread.append(line)
    if unread and warns:
        log.warning("%s: no effect, as nothing reads it; config.yaml keeps it.", ", ".join(unread))


def refuse_untaken(line: str, config: DictConfig, origin: Origin) -> None:
    """
    Raises:
        UserError: `line` adds an argument to a group that the class of its `_target_` does not have.
    """
    group, _, name = key_of(line).partition(".")
    node = config.get(group)
    if not OmegaConf.is_dict(node) or not name or "." in name or name.startswith("_"):
        return
    target = node.get("_target_")
    taken = arguments_of_target(target) if isinstance(target, str) else None
    known = _READ_BY_BNLAB.get(group, ())
    if taken is None or name in taken or name in known:
        return
    there = [str(other) for other in node if other not in (name, "_target_")]
    value = line.partition("=")[2]
    likely = [typed(f"{group}.{other}={value}") for other in closest(name, there)]
    likely = likely or [typed(f"+{group}.{other}={value}") for other in closest(name, sorted(taken))]
    likely = likely or Overrides([], vocabulary_of(origin)).suggestions(f"{group}.{name}", value)
    meant = did_you_mean(likely) or f"there are {', '.join(there)}."
    raise UserError(f"{typed(line)} adds what {target} does not take: {meant}")


_READ_BY_BNLAB = {
    "data": ("batch_size", "normalize"),
    "model": ("num_layers", "num_units"),
    "norm": ("placement",),
    "optimizer": ("beta1", "beta2", "betas"),  # betas has a message of its own
}


def refuse_unread(line: str, lines: Sequence[str], origin: Origin) -> None:
    """
    Raises:
        UserError: `line`, which sets what nothing reads, is like a setting.
    """
    vocabulary = vocabulary_of(origin)
    overrides = Overrides(lines, vocabulary)
    key, value = key_of(line), line.partition("=")[2]
    if key in vocabulary.of_choices:
        raise UserError(overrides.unknown(key, value))
    likely = overrides.suggestions(key, value)
    if likely:
        raise UserError(f"{typed(line)} adds what nothing reads: {did_you_mean(likely)}")


def _is_interpolated(key: str, config: DictConfig) -> bool:
    """Whether a setting is worked out from `key`, or from a part of it."""
    unresolved = str(OmegaConf.to_container(config, resolve=False))
    return any("${" in part and key.rpartition(".")[2] in part for part in unresolved.split("'"))
