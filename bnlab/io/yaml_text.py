"""Replaces `OmegaConf.to_yaml`, which refuses text with a `${` that is no interpolation; delete when it accepts that.

Configs, and plain lists and dicts, are written exactly as it writes them; overrides may contain any text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnlab.errors import one_line
from bnlab.io.stored_file import read_text
from bnlab.text.command_line import is_number

__all__ = ["read_yaml", "to_yaml"]

_TRUTH_VALUES = {
    spelling
    for word in ("y", "n", "yes", "no", "on", "off", "true", "false")
    for spelling in (word, word.capitalize(), word.upper())
}

_Dumper: Any = getattr(yaml, "CDumper", yaml.Dumper)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MOST_BYTES = 1_000_000  # per file, a hundred times more than the largest that bnlab writes


class _OmegaConfDumper(_Dumper):
    """Quote text that OmegaConf or YAML 1.1 would read as a number or a truth value."""


def _represent_text(dumper: Any, text: str) -> Any:
    is_other = text in _TRUTH_VALUES or is_number(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="'" if is_other else None)


_OmegaConfDumper.add_representer(str, _represent_text)
_OmegaConfDumper.add_multi_representer(str, _represent_text)  # an `Interpolation` is one, too


def to_yaml(config: DictConfig | dict[str, Any] | Sequence[Any]) -> str:
    """Write as `OmegaConf.to_yaml(config, resolve=True)` does, also for a container of plain values."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    return str(
        yaml.dump(config, Dumper=_OmegaConfDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    )


def read_yaml(path: Path) -> Any:
    """Read a file that `to_yaml` wrote into dicts, lists and plain values, without resolving interpolations.

    Anybody may have made the file, so anchors and aliases are refused: a few lines of them can expand to fill the
    memory.

    Raises:
        ValueError, OSError: it cannot be read, or `to_yaml` did not write it.
    """
    text = read_text(path, _MOST_BYTES)
    try:
        has_alias = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader))
        if has_alias:
            raise ValueError(f"{path.name} has anchors and aliases, which bnlab never writes")
        config = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ValueError(f"{path.name} is not YAML as bnlab writes it ({one_line(error)})") from error
    return OmegaConf.to_container(config, resolve=False)
