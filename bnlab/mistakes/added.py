"""Check what `+key=value` adds: a run must read it, or the class that the group names must accept it."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from bnlab.config.read_settings import NOTHING_READS_IT, is_unread
from bnlab.errors import UserError
from bnlab.mistakes.overrides import Overrides
from bnlab.mistakes.signature import arguments_of_target
from bnlab.mistakes.vocabulary import vocabulary_of
from bnlab.text.command_line import Origin, key_of, typed
from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["check_added", "is_interpolated", "is_note", "refuse_unread", "refuse_untaken"]

_NOTES = "notes"  # users' remarks on a run; config.yaml keeps them and comparisons show them
_ABSENT = object()  # null is a value


def check_added(config: DictConfig, lines: Sequence[str], groups: Collection[str], origin: Origin, hydra: Any) -> None:
    """Check what the overrides `lines` add to the composed config of a single run.

    Args:
        groups: the config groups, of which some may be added.
        hydra: the config's `hydra` node, whose folders may be named after a setting, or None.
    Raises:
        UserError: nothing accepts an added setting.
    """
    for line in lines:
        key = key_of(line)
        if not line.startswith("+") or key in groups or "@" in key or is_note(key):
            continue
        if OmegaConf.select(config, key, default=_ABSENT, throw_on_resolution_failure=False) is _ABSENT:
            continue
        refuse_untaken(line, config, origin)
        reason = is_unread(config, key)
        if reason is not None and not is_interpolated(key, config, hydra):
            refuse_unread(line, lines, origin, reason)


def is_note(key: str) -> bool:
    return key.partition(".")[0] == _NOTES


def refuse_untaken(line: str, config: DictConfig, origin: Origin) -> None:
    """Refuse an argument that its group does not accept.

    Raises:
        UserError: `line` adds an argument that the class of the group's `_target_` does not have.
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
    raise UserError(f"{typed(line)} adds an argument that {target} does not take: {meant}")


_READ_BY_BNLAB = {
    "data": ("batch_size", "normalize"),
    "model": ("num_layers", "num_units"),
    "norm": ("placement",),
    "optimizer": ("beta1", "beta2", "betas"),  # betas has its own message
}


def refuse_unread(line: str, lines: Sequence[str], origin: Origin, reason: str) -> NoReturn:
    """Refuse a setting that has no effect, with what was probably meant.

    Raises:
        UserError: always; `reason` says why `line` has no effect.
    """
    vocabulary = vocabulary_of(origin)
    overrides = Overrides(lines, vocabulary)
    key, value = key_of(line), line.partition("=")[2]
    if key in vocabulary.of_choices:
        raise UserError(overrides.unknown(key, value))
    likely = overrides.suggestions(key, value)
    if likely:
        raise UserError(f"{typed(line)} adds a setting that nothing reads: {did_you_mean(likely)}")
    if reason != NOTHING_READS_IT:
        raise UserError(f"{typed(line)} has no effect, as {reason}: leave it out.")
    note = typed(f"+{_NOTES}.{key}={value}")
    raise UserError(f"{typed(line)} adds a setting that nothing reads: leave it out, or keep it as a note, {note}.")


def is_interpolated(key: str, *nodes: Any) -> bool:
    """Whether a setting in one of `nodes` interpolates `key`, a part of it or a parent of it."""
    return any(
        f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") or (is_relative and key.endswith(f".{name}"))
        for node in nodes
        if node is not None
        for is_relative, name in _interpolated(OmegaConf.to_container(node, resolve=False))
    )


def _interpolated(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the names in `${...}`, each after its dots, except those of resolvers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _interpolated(item)
    elif isinstance(value, str):
        for dots, name in re.findall(r"\$\{(\.*)([^{}:$]+)(?=[}$])", value):
            yield dots, name.replace("[", ".").replace("]", "").rstrip(".")
