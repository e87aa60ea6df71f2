"""Processes that are started beside the user's run no file of the current folder in a library's place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import open_dict
from simulated_sweep import LR, smooth
from stacked_oracle import configs_of

import bnlab
from bnlab.process.import_path import current_folder_last, python, safe_environment
from bnlab.stacked import train as train_stack

# Standard library, what it is started with, libraries: each is imported by one of the processes at least.
LIBRARIES = [
    *("json", "random", "typing", "socket", "subprocess", "signal", "logging", "platform", "queue", "runpy"),
    *("argparse", "multiprocessing", "sitecustomize", "numpy", "torch", "yaml", "omegaconf", "hydra", "loky"),
    *("cloudpickle", "matplotlib", "optuna", "rich", "antlr4", "ziglang", "bnlab"),
]
POISON = "import pathlib, os\npathlib.Path(__file__).with_name(f'ran-{__name__}-{os.getpid()}').touch()\n"
SHOWS = """
import bnlab, json, os, sys
environment = [os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")]
print(json.dumps({"bnlab": bnlab.__file__, "path": sys.path, "environment": environment}))
"""
OWN = """
import torch
from bnlab.data import Split, Splits
def data(**settings):
    split = Split(torch.arange(24.0).reshape(12, 2), torch.arange(12) % 2)
    return Splits(split, split, split, num_classes=2)
"""


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which files are named as libraries are; this process has imported them before."""
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in LIBRARIES:
        (folder / f"{name}.py").write_text(POISON)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    # An empty entry is the current folder, and comes about easily: PYTHONPATH=$PYTHONPATH:/more
    monkeypatch.setenv("PYTHONPATH", f":{os.environ.get('PYTHONPATH', '')}")
    return folder


def ran(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("ran-*"))


def test_stacked_training_finds_modules_in_the_current_folder_after_all_others(poisoned: Path, tmp_path: Path) -> None:
    (poisoned / "of_the_user.py").write_text(OWN)
    (config,) = configs_of(["trainer.max_epochs=1"], [{}])
    with open_dict(config):
        config.data = {"_target_": "of_the_user.data", "batch_size": 4, "normalize": True}
    (summary,) = train_stack([config], tmp_path / "stack", num_workers=1)
    assert ran(poisoned) == []
    assert summary["status"] == "completed", summary["error"]


def test_a_joblib_sweep_runs_no_file_of_the_current_folder(poisoned: Path, tmp_path: Path, train, monkeypatch) -> None:
    monkeypatch.setattr("bnlab.train.task", smooth)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    outcome = train(
        *("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", f"hydra.sweep.dir={tmp_path}/sweep"),
        *("search=random", "search.num_trials=1", LR),
    )
    assert ran(poisoned) == []
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("module", ["bnlab", "bnlab.train", "bnlab.evaluate"])
def test_a_command_runs_no_file_of_the_current_folder_from_its_first_import_on(module: str, poisoned: Path) -> None:
    # Python itself runs the one, by the empty entry of PYTHONPATH, and `python -m bnlab` there asks for the other.
    for name in ("sitecustomize", "bnlab"):
        (poisoned / f"{name}.py").unlink()
    repository = str(Path(bnlab.__file__).parent.parent)
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env={**os.environ, "PYTHONPATH": f"{repository}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert ran(poisoned) == []


def test_the_installed_script_and_the_compiler_run_no_file_of_the_current_folder(
    poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(sys.executable).with_name("bnlab-train")
    if not script.is_file():
        pytest.skip("bnlab is not installed (pip install -e .)")
    for name in ("cc", "gcc", "clang", "as", "ld", "cc1", "collect2"):
        (poisoned / name).write_text(f"#!/bin/sh\ntouch {poisoned}/ran-{name}\nexit 1\n")
        (poisoned / name).chmod(0o755)
    monkeypatch.setenv("BNLAB_CACHE", str(tmp_path / "cache"))  # so that it compiles
    monkeypatch.setenv("PYTHONPATH", str(Path(bnlab.__file__).parent.parent))
    arguments = [f"hydra.run.dir={tmp_path}/run", "trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[4]"]
    done = subprocess.run([script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ran(poisoned) == []
    assert "plain torch" not in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


def test_the_folder_of_bnlab_itself_stays_where_it_is_on_the_path(monkeypatch, tmp_path: Path) -> None:
    home = Path(bnlab.__file__).resolve().parent.parent
    others = [str(tmp_path / name) for name in "ab"]
    monkeypatch.setattr(sys, "path", ["", *others])
    monkeypatch.chdir(home)
    assert current_folder_last() == [str(home), *others]
    monkeypatch.chdir(tmp_path)
    assert current_folder_last() == [*others, str(tmp_path)]


def test_a_started_module_has_this_bnlab_and_path_and_passes_on_the_environment_as_it_was(
    poisoned: Path, tmp_path: Path
) -> None:
    """Another bnlab, which comes first on the path, is none of this program's."""
    (tmp_path / "bnlab").mkdir()
    (tmp_path / "bnlab" / "__init__.py").write_text("raise SystemExit('another')")
    sys.path.insert(0, str(tmp_path))  # which `poisoned` sets back
    (poisoned / "shows.py").write_text(SHOWS)
    done = subprocess.run(
        python("shows"), env=os.environ | safe_environment(), capture_output=True, text=True, check=True
    )
    shown = json.loads(done.stdout)
    assert shown["bnlab"] == bnlab.__file__
    assert shown["path"] == current_folder_last()
    assert shown["environment"] == [os.environ["PYTHONPATH"], os.environ.get("PYTHONSAFEPATH")]
    assert ran(poisoned) == []
