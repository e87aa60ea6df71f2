"""A config in one line."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

__all__ = ["describe"]


def describe(config: DictConfig) -> str:
    """What was chosen, in one line, for titles: data, network, norm, optimizer, batch size, seed."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    data, model, norm, optimizer = (settings[group] for group in ("data", "model", "norm", "optimizer"))
    shape = "-".join(map(str, model.get("hidden", ())))
    parts = [
        data.get("name") or (Path(data["path"]).name if data.get("path") else _last_name(data)),
        " ".join(filter(None, [_last_name(model), shape, model.get("activation")])),
        f"{norm['_target_'].replace('bnlab.batch_norm.', '')} {norm.get('placement', 'before')} activation"
        if norm["_target_"]
        else "no norm",
        " ".join([_last_name(optimizer), *(f"{key} {optimizer[key]:g}" for key in _SHOWN if key in optimizer)]),
        f"batch {data['batch_size']}",
        f"seed {settings['seed']}",
    ]
    return ", ".join(parts)


_SHOWN = ("lr", "momentum", "alpha", "beta1", "beta2")


def _last_name(group: dict[str, Any]) -> str:
    return str(group["_target_"]).rpartition(".")[2]
