"""The configuration: where it lies, composing it from Python, and checking it before anything is trained.

Hydra is imported for composing only: a worker process checks and describes configs that another composed.
"""

import functools
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.command_line import Origin, differences
from bnlab.concealing import is_masked
from bnlab.confidential import from_environment, leaves, settings_to_write
from bnlab.errors import UserError, user_errors
from bnlab.rules import RULES
from bnlab.task import objectives, task_of
from bnlab.yaml_text import to_yaml

__all__ = [
    "WIDTHS",
    "check",
    "compose",
    "config_folder",
    "describe",
    "interpolations_of",
    "overrides_of",
    "plain",
    "plain_to_write",
]

WIDTHS = ("num_layers", "num_units")  # of `model`: numbers from which the config makes the list `hidden`
_REQUIRED = ("data", "model", "norm", "optimizer", "scheduler", "trainer", "logger", "seed", "objective", "num_threads")
_WITHOUT = {"norm": "norm=none", "scheduler": "scheduler=constant", "logger": "logger=csv"}

# Makes a list of equal widths from two numbers, each of which can be searched: ${repeat:100,3} is [100, 100, 100].
OmegaConf.register_new_resolver("repeat", lambda value, times: OmegaConf.create([value] * times), replace=True)


def config_folder() -> str:
    """The absolute path of `conf/`: the copy in the installed package, else the one beside it in the repository."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"conf/train.yaml is neither in {package} nor beside it; install bnlab again.")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `python -m bnlab.train` would use with these overrides, for use from Python.

    Raises:
        UserError: an override that does not parse, or names what does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from bnlab.search.plugin import register

    with _composing:
        outer = GlobalHydra.instance().hydra  # that of a program around this call
        GlobalHydra.instance().clear()
        register()
        try:
            try:
                with user_errors(), initialize_config_dir(config_folder(), version_base="1.3"):
                    config = hydra_compose("train", list(overrides))
            except UserError as error:
                from bnlab.mistakes.explaining import explain

                raise UserError(explain(list(overrides), Origin(), multirun=False) or str(error)) from error
        finally:
            GlobalHydra.instance().hydra = outer
    check(config)
    if len(_composed) > 10_000:
        _composed.clear()
    _composed[_digest(plain(config))] = list(overrides)
    return config


_composing = threading.RLock()
"""Hydra has one state per process: of two threads that compose, each would find that of the other."""

_composed: dict[bytes, list[str]] = {}
"""The overrides that gave a config, by its content: they are not those of one that was changed afterwards."""


def overrides_of(settings: dict[str, Any], written: dict[str, Any] | None = None) -> list[str] | None:
    """Overrides that make `python -m bnlab.train` train with these settings (of `plain`); None where none do.

    They are those that `compose` was given or, of a config that was changed or made by hand, its differences from the
    defaults; for these, `written` are the settings as they may be written down (of `plain_to_write`).
    """
    composed = _composed.get(_digest(settings))
    if composed is not None:
        return list(composed)
    try:
        return differences(_defaults(), settings if written is None else written)
    except ValueError:
        return None


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, resolved; without how Hydra runs it and how a search found it."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in container.items() if key not in ("hydra", "search")}


def plain_to_write(config: DictConfig) -> dict[str, Any]:
    """`plain`, as it may be written down: what the environment says stays there, secrets are masked."""
    return {key: value for key, value in settings_to_write(config).items() if key not in ("hydra", "search")}


def interpolations_of(config: DictConfig) -> dict[tuple[Any, ...], str]:
    """What of `plain` the environment gives, as `bnlab.confidential.from_environment` says it."""
    return {key: text for key, text in from_environment(config).items() if key[0] not in ("hydra", "search")}


@functools.cache
def _defaults() -> dict[str, Any]:
    return plain(compose())


def _digest(settings: dict[str, Any]) -> bytes:
    return hashlib.blake2b(to_yaml(settings).encode(), digest_size=16).digest()


def check(config: DictConfig) -> None:
    """Hold every setting against its rule.

    Raises:
        UserError: the first setting that breaks its rule, with the rule and the value.
    """
    with user_errors():
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key, value in leaves(settings):
        if is_masked(value):
            raise UserError(
                f"`{key}` is {value!r}, where *** stands for a secret that was not written down: give it again, "
                f"best as {key}='${{oc.env:NAME}}'."
            )
    assert isinstance(settings, dict)
    for key in _REQUIRED:
        if key not in settings:
            without = f", or choose {_WITHOUT[key]}" if key in _WITHOUT else ""
            raise UserError(f"`{key}` must not be taken out of the config: leave it there{without}.")
    for key, rule in RULES.items():
        value = settings
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                break
            value = value[part]
        else:
            rule.check(key, value)
    for name, callback in settings.get("callbacks", {}).items():
        if not isinstance(callback, dict) or "_target_" not in callback:
            raise UserError(
                f"`callbacks.{name}` must name a class as `_target_`, but got {callback!r}: "
                f"+callbacks.{name}._target_=... adds it, ~callbacks.{name} takes it away."
            )
    objective, task = settings.get("objective"), task_of(config)
    if objective not in objectives(task):
        raise UserError(
            f"`objective` must be {' or '.join(map(repr, objectives(task)))} with task={task}, but got {objective!r}."
        )
    trainer = config.get("trainer") or {}
    if trainer.get("max_epochs") == -1 and trainer.get("max_steps", -1) == -1:
        raise UserError("`trainer.max_epochs` and `trainer.max_steps` are both -1: set one, or training never ends.")


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
