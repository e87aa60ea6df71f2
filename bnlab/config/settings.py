"""The settings of a config as plain values: as they are, and as they may be written down."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.confidential import from_environment, settings_to_write

__all__ = ["WIDTHS", "interpolations_of", "plain", "plain_to_write"]

WIDTHS = ("num_layers", "num_units")  # of `model`: numbers from which the config makes the list `hidden`


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, resolved; without how Hydra runs it and how a search found it."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in container.items() if key not in ("hydra", "search")}


def plain_to_write(config: DictConfig) -> dict[str, Any]:
    """`plain`, as it may be written down: what the environment says stays there, secrets are masked."""
    return {key: value for key, value in settings_to_write(config).items() if key not in ("hydra", "search")}


def interpolations_of(config: DictConfig) -> dict[tuple[Any, ...], str]:
    """What of `plain` the environment gives, as `bnlab.config.confidential.from_environment` says it."""
    return {key: text for key, text in from_environment(config).items() if key[0] not in ("hydra", "search")}
