"""The first second of a command: a line that says what comes, or why it cannot be, before torch is imported."""

import json
import os
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

import hydra._internal.hydra as hydra_itself
import pexpect
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from bnlab.config.folder import config_folder
from bnlab.hydra_plugins.known_mode import known_mode
from bnlab.hydra_plugins.register import register
from bnlab.internals.hydra_internals import initialized
from bnlab.network import ACTIVATIONS
from bnlab.preflight import network
from bnlab.preflight.targets import check_target, is_missing

# Each command in turn in one process that has no torch; what each came to is printed as a line of JSON.
RUNNING = """
import contextlib, io, json, os, sys
from bnlab.train import main

for arguments in json.loads(sys.argv[1]):
    sys.argv[:] = ["bnlab.train", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    with_torch = [name for name in ("torch", "lightning") if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), with_torch, sorted(os.listdir())]))
"""

STOP = "lightning.pytorch.callbacks.EarlyStopping"
REFUSED = {
    "data.batch_size=0": "`data.batch_size` must be a whole number >= 1",
    "data.batch_size=1078": "the 1077 samples of the training set, but got 1078",
    "data.batch_size=1": "at least 2 with batch norm",
    "data.test_fraction=0.9": r"must stay below 1, but got 0\.2 \+ 0\.9",
    "data=mnist data.root=file": "MNIST is not in `data.root`='file'.*is no folder",
    "data=mnist data.name=MNST data.root=.": "a class of torchvision.datasets .*, but got 'MNST'",
    "data=mnist data.batch_size=54001": "the 54000 samples of the training set",
    "data=csv data.path=mine.csv data.target=y": "`data.path`='mine.csv' does not exist",
    "data=npz data.path=mine.npz": "`data.path`='mine.npz' does not exist",
    "data._target_=nowhere.load": "there is no module 'nowhere'",
    "model.activation=rely": "`model.activation` must be one of relu, .*, but got 'rely'",
    "model._target_=bnlab.network.MLPP": "did you mean bnlab.network.MLP?",
    "norm._target_=bnlab.BatchNorm1": "did you mean bnlab.BatchNorm1d?",
    "norm._target_=torch.nn.BatchNorn1d": "did you mean torch.nn.BatchNorm1d?",
    "optimizer._target_=torch.optim.Adm": "did you mean torch.optim.Adam?",
    "scheduler._target_=torch.optim.lr_scheduler.CosinAnnealingLR": "did you mean .*CosineAnnealingLR?",
    "trainer.accelerator=gpux": "`trainer.accelerator` must be 'auto', 'cpu'",
    "trainer.precision=31": "`trainer.precision` must be '32-true'",
    "+trainer.plugins._target_=lightning.pytorch.plugins.NoSuchThing": "`trainer.plugins._target_` is",
    f"+callbacks.a._target_={STOP}x": f"did you mean {STOP}?",
    f"+callbacks.a._target_={STOP} +callbacks.a.monitor=los": "`callbacks.a.monitor` must be one of train_loss",
    "+callbacks.a._target_=lightning.pytorch.callbacks.LearningRateFinder": "must not be a LearningRateFinder",
    "+callbacks.a._target_=lightning.pytorch.callbacks.LearningRateMonitor": "must have a logger to write to",
    "hydra.run.dir=occupied": "'.*occupied' already holds a run",
    "-m seed=0,1 model.activation=rely": "`model.activation` must be one of",
    "-m norm=batch,torch data.batch_size=1": "at least 2 with batch norm",
}


def outcomes(commands: list[str], folder: Path) -> list[list]:
    arguments = json.dumps([command.split() for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUNNING, arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_needs_no_torch_to_be_refused_is_refused_without_it_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied/summary.json").write_text("{}")
    found = outcomes(list(REFUSED), tmp_path)
    assert len(found) == len(REFUSED)
    for (command, message), (code, out, err, with_torch, files) in zip(REFUSED.items(), found, strict=True):
        assert code == 2, command
        assert "Training" not in out
        assert err.count("\n") == 1, err
        assert re.search(message, err), err
        assert with_torch == [], command
        assert files == ["file", "occupied"], command


# A torch that ends the process when it is imported: what was printed by then needed none.
WITHOUT_TORCH = """
import os, sys
from importlib.machinery import ModuleSpec

class Ending:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in ("torch", "optuna") else None

    def create_module(self, spec):
        os._exit(77)

    exec_module = None

sys.meta_path.insert(0, Ending())
from bnlab.train import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["hydra.run.dir=run", "norm.placement=after"],
            ["digits", "MLP 100-100-100 relu", "BatchNorm1d after", "Adam lr 0.002", "run", "torch"],
        ),
        (
            ["-m", "hydra.sweep.dir=sweep", "optimizer.lr=0.1,0.2", "norm=none"],
            ["optimizer.lr", "digits", "MLP 100-100-100 relu", "no norm", "Adam", "sweep", "torch"],
        ),
        (["-m", "search.resume=sweep"], ["sweep", "torch"]),
    ],
    ids=["run", "sweep", "resumed sweep"],
)
def test_one_line_says_what_comes_before_torch_is_loaded(arguments, words, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 77, outcome.stderr
    assert outcome.stdout.count("\n") == 1
    for word in words:
        assert word in outcome.stdout


@pytest.mark.parametrize(
    ("columns", "arguments", "line"),
    [
        (80, [], r"Training digits, MLP, BatchNorm1d, Adam in \.\.\./[\w-]+; loading torch"),
        (
            80,
            ["-m", "hydra.sweep.dir=here", "optimizer.lr=0.1,0.2"],
            r"Searching optimizer\.lr \(grid\): digits, MLP\.\.\. in here; loading torch",
        ),
        (
            110,
            ["seed=3", "norm.placement=after", "hydra.run.dir=a/b/c"],
            "Training digits, MLP, BatchNorm1d after activation, Adam, seed 3 in a/b/c; loading torch",
        ),
        (30, ["hydra.run.dir=a/b/c"], r"Training digits, MLP 1.*\.\.\."),
        (300, [], r"Training digits, MLP 100-100-100 relu, .* seed 0; the run goes to outputs/.*"),
    ],
)
def test_the_line_fits_the_terminal(columns: int, arguments: list[str], line: str, tmp_path: Path) -> None:
    command = ["-c", WITHOUT_TORCH, *arguments]
    shown = pexpect.run(
        shlex.join([sys.executable, *command]),
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
        dimensions=(24, columns),
        encoding="utf-8",
    )
    (found,) = shown.splitlines()
    assert re.fullmatch(line, found), found
    assert len(found) < columns


@pytest.mark.parametrize("arguments", [("+optimizer.betas=[0.5,0.9]",), ("model.bias=auto", "optimizer.fused=maybe")])
def test_a_mistake_that_only_torch_can_find_leaves_no_folder(train, arguments, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(*arguments)
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    assert train("hydra.run.dir=mine/run", *arguments).exit_code == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_target_is_missing_only_where_no_source_could_have_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "early_own").mkdir()
    sources = {
        "__init__": "from .parts import *\nfrom early_own.named import (\n    One,\n    Two as Second,\n)",
        "parts": "class Part:\n    pass\n",
        "named": "One = Two = 1\n",
        "dynamic": "def __getattr__(name):\n    return name\n",
    }
    for name, text in sources.items():
        (tmp_path / f"early_own/{name}.py").write_text(text)
    for there in ("Part", "One", "Second", "parts.Part", "named.Two", "parts.Part.method", "dynamic.Anything"):
        assert not is_missing(f"early_own.{there}"), there
    for missing in ("Par", "named.Three", "nowhere.Part", "parts.One"):
        assert is_missing(f"early_own.{missing}"), missing
    with pytest.raises(ValueError, match=r"did you mean early_own\.Part\?"):
        check_target("key", "early_own.Parts")
    for known in ("torch.nn.Linear", "lightning.pytorch.Trainer", "builtins.dict", "torch.optim.lr_scheduler.StepLR"):
        assert not is_missing(known)


def test_activations_are_those_of_the_network() -> None:
    assert tuple(ACTIVATIONS) == network.ACTIVATIONS


@pytest.mark.skipif(not version("hydra-core").startswith("1.3."), reason="Hydra 1.4 composes nothing for it")
def test_a_mode_that_no_config_says_is_not_composed_for() -> None:
    """The oracle: what Hydra composes for it."""
    plain = {"config_name": None, "config_path": None, "config_dir": None}
    own = hydra_itself.Hydra.get_mode
    register()
    with initialized(config_folder()):
        hydra = GlobalHydra.instance().hydra
        assert hydra.get_mode("train", ["seed=1"]) is None
        assert hydra.get_mode("train", ["hydra.mode=MULTIRUN"]) == RunMode.MULTIRUN
        with known_mode(Namespace(**plain, overrides=["seed=1", "hydra.run.dir=here"])):
            assert hydra_itself.Hydra.get_mode(hydra, "nonsense", []) is None
    assert hydra_itself.Hydra.get_mode is own
    for overrides, flags in (
        (["hydra.mode=MULTIRUN"], {}),
        ([], {"config_dir": "mine"}),
        ([], {"config_name": "mine"}),
    ):
        with known_mode(Namespace(**plain | flags, overrides=overrides)):
            assert hydra_itself.Hydra.get_mode is own
