"""What several test files need: real MNIST, and the program run in this process."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig

# Threads that wait for each other on busy cores are what makes a test slow; those about threads set their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
MNIST_ROOT = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    if not (MNIST_ROOT / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip(f"real MNIST is not in {MNIST_ROOT}, and no data set is committed")
    return MNIST_ROOT


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `python -m bnlab.train` with these arguments in this process: the imports are paid once, not every time."""
    from bnlab.train import main

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bnlab.train", *arguments])
        capsys.readouterr()
        exit_code = 0
        try:
            main()
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
        return Outcome(exit_code, *capsys.readouterr())

    return run


@pytest.fixture
def quick_config() -> Callable[..., DictConfig]:
    """A config that trains on digits for two epochs on CPU, with further overrides."""
    from bnlab.config import compose

    def make(*overrides: str) -> DictConfig:
        return compose(["trainer.max_epochs=2", "trainer.accelerator=cpu", *overrides])

    return make


@pytest.fixture
def sweep(train, monkeypatch, tmp_path):
    """Run a sweep of `task`; what it left is read back from its folder."""
    from simulated_sweep import Left, smooth

    monkeypatch.chdir(tmp_path)

    def run(*arguments, task=smooth, folder="sweep"):
        monkeypatch.setattr("bnlab.train.task", task)
        outcome = train("-m", f"hydra.sweep.dir={folder}", *arguments)
        return outcome, Left(tmp_path / folder)

    return run
