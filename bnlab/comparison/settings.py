"""Finds the settings that differ between runs and are worth a column."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnlab.comparison.choices import GROUPS, choice_of, default_of, default_of_all
from bnlab.config.trust import escape_machine_interpolations

__all__ = ["Settings", "differing", "read_settings"]

# Settings that do not make it another run: the seed, the place of files, and the loggers.
_NOT_OF_THE_RUN = (
    *("seed", "data.root", "logger", "search", "hydra", "resume", "record", "panda"),
    *("callbacks", "metrics", "figures"),
)

_ABSENT = object()  # null is a value


@dataclass(frozen=True)
class Settings:
    """The settings of a run by key, with each group's choice under its name: {"norm": "batch", "norm.eps": 1e-5, ...}.

    Attributes:
        config: the nested config that they were read from.
    """

    values: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)

    def is_implied(self, key: str) -> bool:
        """Whether the value of `key` follows from the choice of its group and from other settings, as that eps does."""
        group, _, name = key.partition(".")
        if not name or group not in self.values or group not in GROUPS:
            return False
        harmless = escape_machine_interpolations(self.config)
        return bool(default_of(group, self.values[group], name, harmless) == self.values[key])


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read the settings from the nested config of a run, whose interpolations are unresolved."""
    values: dict[str, Any] = {}
    for group, of_group in config.items():
        if group in GROUPS and isinstance(of_group, Mapping) and "_target_" in of_group:
            values[group] = choice_of(group, of_group)
            of_group = {key: value for key, value in of_group.items() if key != "_target_"}
        values.update(_leaves(of_group, str(group)))
    return Settings({key: value for key, value in values.items() if not _is_below(key, _NOT_OF_THE_RUN)}, config)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")
    else:
        yield key, value


def _is_below(key: str, above: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in above)


def differing(runs: Sequence[Settings]) -> list[str]:
    """Return the keys whose values are not the same in all runs, in the order of the config.

    Keys that differ only as a consequence of another one are left out: those that are implied wherever they exist, and
    those that exist with some choices only and always have the same value there.
    """
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return [key for key in keys if _differs(key, runs) and not _follows(key, runs)]


def _differs(key: str, runs: Sequence[Settings]) -> bool:
    first = runs[0].values.get(key, _ABSENT)
    return not all(_are_equal(run.values.get(key, _ABSENT), first) for run in runs)


def _follows(key: str, runs: Sequence[Settings]) -> bool:
    having = [run for run in runs if key in run.values]
    if all(run.is_implied(key) for run in having):
        return True
    if len(having) == len(runs) or _differs(key, having):
        return False
    if having[0].values[key] == default_of_all(key):
        return True  # runs of an earlier version lack it
    group = key.partition(".")[0]
    return group != key and _differs(group, runs)


def _are_equal(a: Any, b: Any) -> bool:
    """Compare two settings: 1 equals 1.0, but not true."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
