"""The settings of a config as plain values, with secrets or without them."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.confidential import from_environment, settings_to_write

__all__ = ["WIDTHS", "interpolations_of", "plain", "plain_to_write"]

WIDTHS = ("num_layers", "num_units")  # of `model`; the config makes the list `hidden` from these numbers


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain values, resolved, without the `hydra` and `search` nodes."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in container.items() if key not in ("hydra", "search")}


def plain_to_write(config: DictConfig) -> dict[str, Any]:
    """Return `plain` to be written: interpolations of the environment are kept, secrets are masked."""
    return {key: value for key, value in settings_to_write(config).items() if key not in ("hydra", "search")}


def interpolations_of(config: DictConfig) -> dict[tuple[Any, ...], str]:
    """Return the part of `plain` that comes from the environment (`bnlab.config.confidential.from_environment`)."""
    return {key: text for key, text in from_environment(config).items() if key[0] not in ("hydra", "search")}
