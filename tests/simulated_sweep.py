"""A sweep with a simulated objective in place of the training, and what it leaves."""

import csv
import math
from pathlib import Path

import optuna
from omegaconf import OmegaConf

from bnlab.config.folder import config_folder

SAMPLERS = sorted(file.stem for file in Path(config_folder(), "search").glob("*.yaml") if file.stem != "grid")
LR = "optimizer.lr=tag(log,interval(1e-4,1))"
MOMENTUM = "optimizer.momentum=tag(one_minus_log,interval(0.9,0.999))"


def smooth(config):
    """Best at a learning rate of 0.01 and a momentum of 0.97; the seed moves it a little."""
    value = 1 - (math.log10(config.optimizer.lr) + 2) ** 2 / 10
    if "momentum" in config.optimizer:
        value -= (math.log10(1 - config.optimizer.momentum) + 1.5) ** 2 / 10
    return value + config.seed * 1e-4


class Left:
    def __init__(self, folder):
        self.folder = folder

    @property
    def rows(self):
        with (self.folder / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    @property
    def best(self):
        return OmegaConf.load(self.folder / "best.yaml")

    @property
    def leaderboard(self):
        return (self.folder / "leaderboard.md").read_text()

    @property
    def study(self):
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(self.folder / "study.journal"))
        )
        return optuna.load_study(study_name=None, storage=storage)
