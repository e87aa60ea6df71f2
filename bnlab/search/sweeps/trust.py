"""Finds what needs the user's trust in the folder of a sweep that somebody else made, before it is resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bnlab.config.trust import (
    UNTRUSTED_DATA_SETS,
    known_by_name,
    known_target,
    reasons_of_interpolations,
    reasons_of_targets,
)
from bnlab.search.study.definition import Definition
from bnlab.text.command_line import Origin, key_of

__all__ = ["TRUST", "needs_trust", "reasons_of_configs", "reasons_of_definition"]

TRUST = "search.trust"

# The harmless settings of Hydra; many others name code or files.
_OF_HYDRA = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra.launcher.n_jobs")
_CHOICES = {"hydra/launcher": ("basic", "joblib", "stacked"), "hydra.mode": ("MULTIRUN",)}


IsKnown = Callable[[str], object]


def needs_trust(stored: Definition, config: DictConfig) -> bool:
    """Whether resuming this sweep needs trust, judged by names alone, which needs no import of torch."""
    return any((*reasons_of_definition(stored, known_by_name), *reasons_of_configs(config, known_by_name)))


def reasons_of_definition(stored: Definition, is_known: IsKnown = known_target) -> Iterator[str]:
    """Yield why `sweep.yaml` needs trust: its settings of Hydra, its study and its targets."""
    yield from _reasons_of_origin(stored.origin)
    if stored.storage is not None and ("${" in stored.storage or not _is_inside(stored.storage)):
        yield "keeps its study elsewhere (`search.storage`)"  # the address is not shown, as it may contain a password
    yield from reasons_of_interpolations({"overrides": [*stored.overrides, *stored.origin.overrides]})
    yield from reasons_of_targets({"search": {"pruner": stored.pruner}}, is_known)
    for line in stored.overrides:
        yield from _reasons_of_override(line, is_known)


def reasons_of_configs(config: DictConfig, is_known: IsKnown = known_target) -> Iterator[str]:
    """Yield why the composed `config` of a sweep needs trust."""
    settings: Any = OmegaConf.to_container(config, resolve=False)
    settings.pop("hydra")  # `_reasons_of_origin` has checked it
    yield from reasons_of_targets(settings, is_known)


def _reasons_of_origin(origin: Origin) -> Iterator[str]:
    if not origin.is_default:
        yield "takes configs from a folder of its own"
    for line in origin.overrides:
        key, _, value = line.partition("=")
        is_known = key in _OF_HYDRA or value in _CHOICES.get(key, ())
        if not is_known and key != "hydra.searchpath":  # `is_default` has covered it
            yield f"sets {line!r} of Hydra"


def _is_inside(storage: str) -> bool:
    """Whether it is an SQLite file in the sweep's folder."""
    scheme, _, file = storage.partition(":///")
    return scheme == "sqlite" and not file.startswith(("/", "file:")) and ".." not in file and "?" not in file


def _reasons_of_override(line: str, is_known: IsKnown) -> Iterator[str]:
    key = key_of(line)
    try:
        values = _values_of(OverridesParser.create().parse_override(line))
    except (HydraException, ValueError, TypeError):
        if "_target_" in line:
            yield f"has the override {line!r}"
        return
    for value in values:
        last = key.rpartition(".")[2].partition("@")[0]
        yield from reasons_of_targets({key: {last: value} if last == "_target_" else value}, is_known)
        if key == "data.name" and value not in UNTRUSTED_DATA_SETS:
            yield f"asks for torchvision's data set {value!r} in `data`"


def _values_of(override: Override) -> list[Any]:
    """Return the values that the override sets or sweeps over, as plain values."""
    values: Sequence[Any]
    if not override.is_sweep_override():
        values = [override.value()]
    elif override.is_interval_sweep():
        values = []
    else:
        values = list(override.sweep_iterator())
    return list(map(_plain, values))


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(_plain, value))
    return value
