"""A data set, callbacks and a configuration for trainings that take a moment."""

import math

import lightning as L
import torch
from omegaconf import DictConfig, open_dict

from bnlab.composing import compose
from bnlab.data import Split, Splits


def data(split_seed: int = 0) -> Splits:
    generator = torch.Generator().manual_seed(split_seed)

    def split(num_samples: int) -> Split:
        x = torch.randn(num_samples, 1, 5, generator=generator)
        return Split(x, (x.mean((1, 2)) > 0).long() + (x[:, 0, 0] > 1).long())

    return Splits(split(60), split(30), split(30), num_classes=3)


def tiny(*overrides: str) -> DictConfig:
    """Three epochs of four steps, with further overrides."""
    config = compose(
        ["trainer.accelerator=cpu", "trainer.max_epochs=3", "model.hidden=[6]", "data.batch_size=16", *overrides]
    )
    with open_dict(config):
        config.data = {"_target_": "tiny.data", "batch_size": config.data.batch_size, "normalize": True}
        config.data.split_seed = 0
    return config


def with_dropout(input_shape: tuple[int, ...], num_classes: int, **others: object) -> torch.nn.Module:
    """A network one of whose layers draws random numbers."""
    flat = torch.nn.Flatten(), torch.nn.Linear(math.prod(input_shape), 6)
    return torch.nn.Sequential(*flat, torch.nn.Dropout(0.5), torch.nn.Linear(6, num_classes))


class Asked:
    """In place of `InterruptRequest.is_requested`: from when it has been asked `number` times on."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __get__(self, request: object, kind: type) -> bool:
        self._left -= 1
        return self._left <= 0


class Raising(L.Callback):
    """Raises in the hook and at the step that it is told."""

    def __init__(self, hook: str, step: int) -> None:
        self._step = step
        setattr(self, hook, self._raise)

    def _raise(self, trainer: L.Trainer, *arguments: object) -> None:
        if trainer.global_step == self._step:
            raise RuntimeError("the wheel\ncame off")


class LogsItsOwn(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.log("own", torch.tensor(float(trainer.current_epoch)))
