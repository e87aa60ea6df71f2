"""What several test files need: real MNIST, and the program run in this process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
def command_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Callable]:
    """From a module's `main`, what runs it with arguments in this process, where the imports are paid once."""

    def of(main: Callable[[], None]) -> Callable[..., Outcome]:
        def run(*arguments: str | Path) -> Outcome:
            monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
            capsys.readouterr()
            exit_code = 0
            try:
                main()
            except SystemExit as stop:
                exit_code = int(stop.code or 0)
            return Outcome(exit_code, *capsys.readouterr())

        return run

    return of


@pytest.fixture
def train(command_of: Callable[..., Callable]) -> Callable[..., Outcome]:
    """`python -m bnlab.train` with these arguments."""
    from bnlab.train import main

    return command_of(main)


@pytest.fixture
def quick_config() -> Callable[..., DictConfig]:
    """A config that trains on digits for two epochs on CPU, with further overrides."""
    from bnlab.composing import compose

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


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a file system for this test: `mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")` gives its folder."""
    folders: list[Path] = []

    def mount(*arguments: str | Path) -> Path:
        folder = tmp_path / f"mounted-{len(folders)}"
        folder.mkdir()
        done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"only root can mount: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def powered(mounted: Callable[..., Path], tmp_path: Path) -> tuple[Path, Callable[[], Path]]:
    """A disk of its own, and what would be on it if the power failed now."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be made: {error}")
    disk = mounted("-o", "loop,commit=300", image)  # nothing gets there unasked
    copies = 0

    def after_power_cut() -> Path:
        nonlocal copies
        copies += 1
        copy = tmp_path / f"copy-{copies}.img"
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        return mounted("-o", "loop", copy)

    return disk, after_power_cut
