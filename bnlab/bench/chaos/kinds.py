"""The sweeps that are disturbed: small ones, with every launcher, sampler and storage."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["DATABASE", "LAUNCHERS", "STORAGES", "Kind", "draw_kind"]

LAUNCHERS = ("basic", "joblib", "stacked")
DATABASE = "postgresql"
STORAGES = ("journal", "journal", "sqlite", DATABASE, DATABASE)
SAMPLERS = ("random", "quasi_random", "grid", "coarse_to_fine", "tpe")
SETTINGS = {
    "momentum": ["optimizer=momentum", "optimizer.momentum=tag(one_minus_log,interval(0.8,0.99))"],
    "adam": ["optimizer=adam", "norm=torch"],
    "ghost": ["optimizer=nesterov", "norm=ghost"],
    "plain": ["optimizer=rmsprop", "norm=none", "model.activation=tanh"],
}
NUM_JOBS = 2
_ROUNDS_OF_SAME_RESULTS = 4


@dataclass(frozen=True)
class Kind:
    """A kind of sweep."""

    launcher: str
    sampler: str
    storage: str
    setting: str

    def __str__(self) -> str:
        return f"{self.launcher}, {self.sampler}, {self.storage}, {self.setting}"

    @property
    def has_same_draws(self) -> bool:
        """Whether an interrupted search draws the same configurations; a resumed TPE draws others."""
        return self.sampler != "tpe"

    @property
    def undisturbed(self) -> "Kind":
        """Return the kind to compare with: neither the storage nor the process of a training changes a result."""
        return replace(self, launcher="stacked" if self.launcher == "stacked" else "basic", storage="journal")

    @property
    def num_trials(self) -> int:
        if self.sampler == "tpe":
            return 12  # the first 10 are random
        return 16 if self.launcher == "stacked" else 4

    def overrides(self) -> list[str]:
        """Return the overrides of the sweep, without its folder and storage."""
        is_grid = self.sampler == "grid"
        rates = [0.001 * 2**index for index in range(self.num_trials // 2)]
        setting = SETTINGS[self.setting]
        if is_grid:
            setting = [line.partition("=tag")[0] + "=0.8,0.9" if "tag(" in line else line for line in setting]
            has_two = any(",0.9" in line for line in setting)
            rates = rates if has_two else [0.001 * 2**index for index in range(self.num_trials)]
        return [
            "trainer.accelerator=cpu",
            f"trainer.max_epochs={60 if self.launcher == 'stacked' else 3}",
            "model.hidden=[40,40]",
            f"search={self.sampler}",
            *([] if is_grid else [f"search.num_trials={self.num_trials}"]),
            f"optimizer.lr={','.join(map(str, rates)) if is_grid else 'tag(log,interval(1e-3,1e-1))'}",
            *setting,
            f"hydra/launcher={self.launcher}",
            *([] if self.launcher == "basic" else [f"hydra.launcher.n_jobs={NUM_JOBS}"]),
        ]


def draw_kind(seed: int, number: int, launchers: Sequence[str] = LAUNCHERS, storages: Sequence[str] = STORAGES) -> Kind:
    """Draw the kind of round `number`; several rounds in a row share a kind, and thereby an undisturbed sweep."""
    group = number // _ROUNDS_OF_SAME_RESULTS
    of_results = random.Random(f"results {seed} {group}")
    launcher = launchers[(seed + group) % len(launchers)]
    alike = [other for other in launchers if (other == "stacked") == (launcher == "stacked")]
    sampler = of_results.choices(SAMPLERS, weights=(3, 3, 3, 3, 1))[0]
    setting = of_results.choice(list(SETTINGS))
    generator = random.Random(f"kind {seed} {number}")
    return Kind(generator.choice(alike), sampler, generator.choice(storages), setting)
