"""Command lines that run as printed: values are quoted for Hydra's grammar first, then for the shell."""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bnlab.text.concealing import override_to_write

__all__ = [
    "Interpolation",
    "Origin",
    "command",
    "differences",
    "is_number",
    "key_of",
    "override",
    "shown",
    "typed",
    "without",
    "word",
    "written",
]

PROGRAM = ("python", "-m", "bnlab.train")
CONFIG_NAME = "train"

_OF_SEARCHPATH = "hydra.searchpath in command-line"  # Hydra's name for the provider of a config folder
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_CONSTANTS = ("null", "true", "false")
# Who runs a job, and where it writes, does not belong to the job itself.
_OF_THE_SWEEP = re.compile(r"[+~]*hydra([./](launcher|sweeper|sweep|run)\b|\.mode\b)")


class Interpolation(str):
    """A text with a `${...}` that its reader resolves."""


@dataclass(frozen=True)
class Origin:
    """The sources of a config beside the overrides of its settings: Hydra's flags, and the overrides of Hydra itself.

    Attributes:
        config_name: the value of `--config-name`.
        config_dir: the value of `--config-dir`, absolute; None without it.
        config_path: the value of `--config-path`, absolute or pkg://...; None for bnlab's own configs.
        overrides: those of Hydra itself, as given: each job resolves their interpolations.
    """

    config_name: str = CONFIG_NAME
    config_dir: str | None = None
    config_path: str | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, hydra: Any, own_configs: str) -> "Origin":
        """Read the origin from the `hydra` node of a composed config; `own_configs` is the folder of bnlab's configs.

        Folders become absolute, because a command may be read in another folder.
        """
        sources = {source.provider: source for source in hydra.runtime.config_sources}
        main, extra = sources["main"], sources.get("command-line")
        main_path = f"pkg://{main.path}" if main.schema == "pkg" else main.path
        overrides = without(given_overrides(hydra.overrides.hydra), "hydra.searchpath")
        added = [source for source in hydra.runtime.config_sources if source.provider == _OF_SEARCHPATH]
        if added:
            overrides.insert(0, override("hydra.searchpath", list(map(_absolute, added))))
        return cls(
            config_name=hydra.job.config_name,
            config_dir=None if extra is None else extra.path,
            config_path=None if main_path == own_configs else main_path,
            overrides=tuple(overrides),
        )

    @property
    def is_default(self) -> bool:
        """Whether only bnlab's own configs are used."""
        return self.flags() == [] and not any(key_of(line) == "hydra.searchpath" for line in self.overrides)

    def flags(self) -> list[str]:
        flags = []
        for flag, value in (("--config-path", self.config_path), ("--config-dir", self.config_dir)):
            if value is not None:
                flags += [flag, value]
        if self.config_name != CONFIG_NAME:
            flags += ["--config-name", self.config_name]
        return flags

    def of_a_run(self) -> "Origin":
        """Return the part of it that a single job needs."""
        return replace(self, overrides=tuple(line for line in self.overrides if not _OF_THE_SWEEP.match(line)))


def given_overrides(node: Any) -> list[str]:
    """Return the overrides in `hydra.overrides.hydra` or `hydra.overrides.task`, unresolved."""
    lines: Any = OmegaConf.to_container(node, resolve=False)
    return list(lines)


def command(overrides: Iterable[str], origin: Origin = Origin(), *, multirun: bool = False) -> str:
    """Return the line to type in a shell; `overrides` are already in Hydra's grammar, as they were given.

    Secrets in them are masked, and have to be given again.
    """
    return " ".join(
        map(
            word,
            [
                *PROGRAM,
                *origin.flags(),
                *(["-m"] if multirun else []),
                *map(override_to_write, [*origin.overrides, *overrides]),
            ],
        )
    )


def word(text: str) -> str:
    """Quote `text` as one word of a shell; characters that are invisible or break the line become $'\\x..'."""
    if text.isprintable():
        return shlex.quote(text)
    shown = (f"\\{char}" if char in "\\'" else char if char.isprintable() else _escaped(char) for char in text)
    return f"$'{''.join(shown)}'"


def typed(text: str) -> str:
    """Quote `text` as one word of a shell in the most readable quotes, for an example in a sentence."""
    return f'"{text}"' if "'" in text and text.isprintable() and not set(text) & set('"$`\\!') else word(text)


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def override(key: str, value: Any) -> str:
    """Return `key=value`, which sets exactly `value`."""
    return f"{key}={written(value)}"


def written(value: Any) -> str:
    """Write `value` in Hydra's grammar, so that composing gives the same value of the same type.

    Raises:
        ValueError: the grammar cannot express it.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "[" + ",".join(map(written, value)) + "]"
    raise ValueError(f"an override cannot express {value!r}.")


def is_number(text: str) -> bool:
    """Whether `text`, unquoted, would be read as a number, by YAML or by Hydra."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(text: str) -> str:
    if isinstance(text, Interpolation):
        return _quoted(text)
    if _PLAIN.fullmatch(text) and text.lower() not in _CONSTANTS and not is_number(text):
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # or OmegaConf would resolve it
    return _quoted(text)


def _quoted(text: str) -> str:
    text = re.sub(r'(\\+)(?="|\Z)', r"\1\1", text)
    return '"' + text.replace('"', '\\"') + '"'  # the shell uses the other quotes


def _key(key: Any) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.lower() in (*_CONSTANTS, "nan", "inf"):
        raise ValueError(f"an override cannot name {key!r}.")
    return key


def differences(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the overrides that turn the settings `before` into `after`, both without interpolations.

    Raises:
        ValueError: no overrides do.
    """
    lines = []
    for key in before:
        if key not in after:
            name = above + _key(key)
            lines += [f"{name}=0"] if before[key] is None else []  # Hydra treats a null as a missing key
            lines.append(f"~{name}")
    for key, value in after.items():
        name = above + _key(key)
        if key not in before:
            lines.append("+" + override(name, value))
        elif isinstance(value, Mapping) and isinstance(before[key], Mapping):
            lines += differences(before[key], value, f"{name}.")
        elif not same(value, before[key]):
            if isinstance(value, Mapping) or isinstance(before[key], Mapping):
                raise ValueError(f"an override cannot replace the group {name!r}.")
            lines.append(override(name, value))
    return lines


def same(a: Any, b: Any) -> bool:
    """Whether both are equal in value and type at every level; NaN equals NaN."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def shown(path: Path | str) -> str:
    """Return the path, relative to the current directory if it is below it."""
    try:
        relative = os.path.relpath(path)
    except FileNotFoundError:  # that directory was removed
        return str(path)
    return str(path) if relative == ".." or relative.startswith("../") else relative


def without(overrides: Iterable[str], *keys: str) -> list[str]:
    """Return the overrides that do not set one of `keys`."""
    return [line for line in overrides if key_of(line) not in keys]


def key_of(line: str) -> str:
    return line.partition("=")[0].lstrip("+~")


def _absolute(source: Any) -> str:
    """Make an element of `hydra.searchpath` independent of the current directory."""
    return f"file://{os.path.abspath(source.path)}" if source.schema == "file" else f"{source.schema}://{source.path}"
