"""Describes a config in one line."""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.settings import WIDTHS

__all__ = ["choices_of", "describe"]


def describe(config: DictConfig) -> str:
    """Describe in one line, for titles: data, network, norm, optimizer, batch size, seed."""
    return ", ".join(choices_of(config))


def choices_of(config: DictConfig, given: AbstractSet[str] | None = None) -> list[str]:
    """Return the parts of `describe`; with `given`, which are keys, the names of choices and the values of the keys."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    data, model, norm, optimizer = (settings[group] for group in ("data", "model", "norm", "optimizer"))

    def said(text: str, *keys: str) -> str:
        return text if given is None or not given.isdisjoint(keys) else ""

    shape = "-".join(map(str, model.get("hidden", ())))
    placement = said(f"{norm.get('placement', 'before')} activation", "norm.placement")
    scalars = [said(f"{key} {optimizer[key]:g}", f"optimizer.{key}") for key in _SHOWN if key in optimizer]
    parts = [
        [data.get("name") or (Path(data["path"]).name if data.get("path") else _last_name(data))],
        [
            _last_name(model),
            said(shape, "model.hidden", *(f"model.{name}" for name in WIDTHS)),
            said(model.get("activation"), "model.activation"),
        ],
        [norm["_target_"].replace("bnlab.batch_norm.", ""), placement] if norm["_target_"] else ["no norm"],
        [_last_name(optimizer), *scalars],
        [said(f"batch {data['batch_size']}", "data.batch_size")],
        [said(f"seed {settings['seed']}", "seed")],
    ]
    return [" ".join(filter(None, part)) for part in parts if any(part)]


_SHOWN = ("lr", "momentum", "alpha", "beta1", "beta2")


def _last_name(group: dict[str, Any]) -> str:
    return str(group["_target_"]).rpartition(".")[2]
