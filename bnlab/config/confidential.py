"""Passwords and keys among the settings, and what is written and shown instead of them.

A setting that comes from the environment is written as its interpolation, `${oc.env:NAME}`. Literal secrets are masked:
the password in an address, such as postgresql://user:***@host/db, and the value of a setting that is named like a
secret (`api_key`, `password`, `token`, ...). If there is either, only its owner can access the run's or
sweep's folder.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from bnlab.internals.hydra_internals import raw_value, register_resolver
from bnlab.io.atomic_file import write_text
from bnlab.text.command_line import Interpolation
from bnlab.text.concealing import (
    MASK,
    conceal,
    conceal_address,
    holds_address_secret,
    is_literal_secret,
    is_masked,
    override_to_write,
    remember,
    remember_address,
)

__all__ = [
    "conceal_files_of_hydra",
    "from_environment",
    "holds_secrets",
    "learn",
    "leaves",
    "literal_secrets",
    "may_hold_secrets",
    "resolved",
    "restrict_to_owner",
    "settings_to_write",
    "to_write",
    "unresolved",
    "warn_of_literals",
    "written",
]

log = logging.getLogger(__name__)

_READS_ENVIRONMENT = re.compile(r"\boc\.env\s*:")


def to_write(key: str, value: Any) -> Any:
    """Return the unresolved setting with secrets masked, to be written."""
    if isinstance(value, Mapping):
        return {name: to_write(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_write(key, item) for item in value]
    if is_literal_secret(key, value):
        return MASK
    return conceal(value) if isinstance(value, str) else value


def settings_to_write(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain values, resolved except what comes from the environment, and without secrets."""
    return written(config)[0]


def written(config: DictConfig) -> tuple[dict[str, Any], bool]:
    """Return `settings_to_write` and `may_hold_secrets`, from one pass over the settings."""
    raw = unresolved(config, enum_to_str=True)
    settings = resolved(config, raw, enum_to_str=True)
    written: dict[str, Any] = to_write("", settings)
    for key, text in _from_environment(config, raw).items():
        *above, last = key
        node: Any = written
        for part in above:
            node = node[part]
        node[last] = Interpolation(conceal_address(text))
    return written, holds_secrets(raw)


def resolved(config: DictConfig, raw: Mapping[str, Any], enum_to_str: bool = False) -> dict[str, Any]:
    """Return the settings as plain values, resolving only the `unresolved` ones with interpolations, for speed."""
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        if any("${" in text for _, text in _texts(value)):
            value = config[key]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True, enum_to_str=enum_to_str)
        settings[key] = value
    return settings


def from_environment(config: DictConfig) -> dict[tuple[Any, ...], str]:
    """Return the unresolved texts of the settings that depend on the environment, by keys and indices from the root."""
    return _from_environment(config, unresolved(config))


def _from_environment(config: DictConfig, raw: Mapping[str, Any]) -> dict[tuple[Any, ...], str]:
    interpolated = [(key, text) for key, text in _texts(raw) if "${" in text]
    if not any(_READS_ENVIRONMENT.search(text) for _, text in interpolated):
        return {}
    sign = "\0"  # which no environment variable can contain
    marked = config.copy()
    OmegaConf.clear_cache(marked)
    register_resolver("oc.env", lambda name, *default: f"{sign}{name}", replace=True)
    try:
        return {key: text for key, text in interpolated if _depends(marked, key, sign)}
    finally:
        register_resolver("oc.env", oc.env, replace=True)


def _depends(marked: DictConfig, key: tuple[Any, ...], sign: str) -> bool:
    node: Any = marked
    try:
        for part in key:
            node = node[part]
        value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except Exception:  # a resolver may fail on such a text instead of a number
        return True
    return sign in str(value) or repr(sign)[1:-1] in str(value)


def _texts(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(node, str):
        yield above, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, (*above, key))
    elif isinstance(node, Sequence):
        for index, value in enumerate(node):
            yield from _texts(value, (*above, index))


def learn(config: DictConfig) -> None:
    """Remember the secrets in `config`, so that `conceal` masks them everywhere."""
    for key, value in leaves(unresolved(config)):
        if is_literal_secret(key, value):
            remember(str(value), MASK)
        elif isinstance(value, str) and "://" in value and "${" not in value:
            remember_address(value)
    for path, text in from_environment(config).items():
        node: Any = config
        with suppress(OmegaConfBaseException, KeyError, TypeError):
            for part in path:
                node = node[part]
            if isinstance(node, str) and _may_be_secret(node):
                remember(node, text)
                remember_address(node)


def _may_be_secret(value: str) -> bool:
    """Whether it is neither a number nor an existing path, which could occur in any text."""
    with suppress(ValueError):
        float(value)
        return False
    try:
        return not os.path.exists(os.path.expanduser(value))
    except ValueError:
        return True


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no container, with its key; items of a list have the list's key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from leaves(value, key)
    else:
        yield key, node


def literal_secrets(config: DictConfig) -> list[str]:
    """Return the keys of settings with literal secrets."""
    return [
        key
        for key, value in leaves(unresolved(config))
        if not is_masked(value)
        and (is_literal_secret(key, value) or (isinstance(value, str) and holds_address_secret(value)))
    ]


def may_hold_secrets(config: DictConfig) -> bool:
    """Whether a setting reads the environment or has a literal secret."""
    return holds_secrets(unresolved(config))


def holds_secrets(raw: Mapping[str, Any]) -> bool:
    """Return `may_hold_secrets` for the `unresolved` settings."""
    return any(
        is_literal_secret(key, value)
        or (
            isinstance(value, str)
            and (_READS_ENVIRONMENT.search(value) or is_masked(value) or holds_address_secret(value))
        )
        for key, value in leaves(raw)
    )


def unresolved(config: DictConfig, enum_to_str: bool = False) -> dict[str, Any]:
    """Return the settings as plain values without the `hydra` node, which repeats them."""
    settings: dict[str, Any] = {}
    for key in filter(lambda key: key != "hydra", config):
        value = raw_value(config, str(key))
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=False, enum_to_str=enum_to_str)
        settings[str(key)] = value
    return settings


def restrict_to_owner(folder: Path) -> None:
    """Make the folder accessible to its owner only, if this user is the owner."""
    with suppress(PermissionError):
        folder.chmod(0o700)


def warn_of_literals(config: DictConfig) -> None:
    """Warn in one line if there are literal secrets."""
    keys = literal_secrets(config)
    if keys:
        log.warning(
            "%s: a secret that is given literally is masked in all files, but stays in the history of the shell, and "
            "has to be given again to go on; %s='${oc.env:NAME}' takes it from the environment.",
            ", ".join(f"`{key}`" for key in keys),
            keys[0],
        )


def conceal_files_of_hydra(hydra: Any) -> None:
    """Mask secrets in the files that Hydra has written to `hydra.output_subdir`; `hydra` is its config."""
    if hydra.output_subdir is None:
        return
    for file in (Path(hydra.runtime.output_dir) / hydra.output_subdir).glob("*.yaml"):
        before = file.read_text()
        after = "".join(_line_to_write(line) for line in before.splitlines(keepends=True))
        if after != before:
            restrict_to_owner(file.parent.parent)
            write_text(file, after)


def _line_to_write(line: str) -> str:
    """Mask secrets in a line of a YAML file: `key: value`, or an override in a list."""
    key, separator, value = line.rstrip("\n").partition(": ")
    if separator and is_literal_secret(key.strip(), value.strip("'\"")) and value not in ("null", "true", "false"):
        return f"{key}: '{MASK}'\n"
    start = len(line) - len(line.lstrip(" -"))
    return line[:start] + override_to_write(line[start:].rstrip("\n")) + "\n"
