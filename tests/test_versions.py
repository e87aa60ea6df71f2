"""Other versions: private names stand in one file per library, and without them the work is the same."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnlab.own_version import own_version

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "bnlab"
LIBRARIES = ("torch", "torchvision", "lightning", "hydra", "omegaconf", "optuna", "loky")

# The one file of a library in which its private names stand.
HOMES = {
    "torch": "internals/torch_internals.py",
    "hydra": "internals/hydra_internals.py",
    "optuna": "internals/optuna_internals.py",
    "loky": "internals/loky_internals.py",
}
OF_PYTHON = {
    *("_actions",),  # of argparse
    *("_exit", "_getframe"),  # of os and sys
}
# What a subclass has of its base, and does without where it is gone: `MODULES_CALL_IMPL`, and a way by attributes.
OF_A_BASE = {"batch_norm/module.py": {"_apply", "_buffers", "_call_impl", "_compiled_call_impl", "_parameters"}}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def is_path_to_private(text: str) -> bool:
    return re.match(rf"({'|'.join(LIBRARIES)})\b[\w.:]*[.:]_[a-z]\w*[\w.:]*$", text) is not None


def defined_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def private_names_in(path: Path, own: set[str]) -> list[str]:
    """What is private in the file and of nobody in bnlab."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in LIBRARIES:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [name for alias in node.names for name in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            names = [each.value for each in node.args[1:2] if isinstance(each, ast.Constant)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_path_to_private(node.value):
            names = [f"_{node.value}"]
        found += [f"{node.lineno}: {name}" for name in names if is_private(name) and name not in own]
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
OWN = {name for path in FILES for name in defined_in(ast.parse(path.read_text()))} | OF_PYTHON


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_other_libraries_stand_in_one_file_each(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    if name not in HOMES.values():
        assert not private_names_in(path, OWN | OF_A_BASE.get(name, set()))


def asked_for(library: str) -> list[str]:
    """What the library's file asks for: paths, as `private_name` takes them, and attributes, as "attribute:NAME"."""
    tree = ast.parse((PACKAGE / HOMES[library]).read_text())
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def text_of(node: ast.AST) -> str | None:
        """Of a constant, a name of one, and an f-string of both."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.Name):
            return constants.get(node.id)
        if isinstance(node, ast.FormattedValue):
            return text_of(node.value)
        parts = [text_of(part) for part in node.values] if isinstance(node, ast.JoinedStr) else [None]
        return None if None in parts else "".join(map(str, parts))

    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        texts = [text_of(argument) for argument in node.args[:2]]
        if node.func.id == "private_name" and texts[0] is not None:
            found.add(texts[0])
        elif node.func.id == "_replaced":
            found.add(f"{texts[0]}.{texts[1]}")
        elif node.func.id in ("hasattr", "getattr") and texts[1] is not None and is_private(texts[1]):
            found.add(f"attribute:{texts[1]}")
    return sorted(found)


def without(paths: list[str], program: str, folder: Path, *arguments: str) -> str:
    """What a program of `tests/without_names.py` prints where the private names at `paths` are gone."""
    everything = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}
    done = subprocess.run(
        [sys.executable, "-m", "without_names", ",".join(paths), program, *arguments],
        cwd=folder,
        env=everything,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_batch_norm_has_the_same_numbers_without_any_private_name_of_torch(tmp_path: Path) -> None:
    paths = asked_for("torch")
    assert len(paths) > 25
    assert "not eager" in without(paths, "numbers", tmp_path)


QUICK = ("trainer=quick", "trainer.max_epochs=1", "model.hidden=[8]")
SWEEP = ("-m", "optimizer.lr=0.1,0.01", "trainer.max_epochs=1", "model.hidden=[8]")


def has_met(path: str, *outputs: str) -> bool:
    return any(f"asked for {path}" in output for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", asked_for("torch"))
def test_batch_norm_trains_and_sweeps_without_each_private_name_of_torch(path: str, tmp_path: Path) -> None:
    numbers = without([path], "numbers", tmp_path)
    run = without([path], "train", tmp_path, *QUICK)
    sweep = without([path], "train", tmp_path, "hydra/launcher=stacked", "hydra.launcher.n_jobs=1", *SWEEP)
    assert "curves.png" in run
    assert "Run the best again" in sweep
    assert path.startswith("attribute:") or has_met(path, numbers, run, sweep)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for library in ("hydra", "optuna", "loky") for path in asked_for(library)])
def test_a_run_a_sweep_a_page_and_a_mistake_work_without_each_private_name(path: str, tmp_path: Path) -> None:
    run = without([path], "train", tmp_path, *QUICK)
    sweep = without([path], "train", tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", *SWEEP)
    page = without([path], "train", tmp_path, "--help")
    mistake = without([path], "refused", tmp_path, "optimizer.lrr=0.1")
    is_not_shown = path.endswith(("ConfigLoaderImpl", "load_configuration"))
    shown = without([path], "refused" if is_not_shown else "train", tmp_path, "--cfg", "job", *SWEEP)
    assert "curves.png" in run
    assert "Run the best again" in sweep
    assert "optimizer" in page
    assert "one line" in mistake
    assert ("leave -m out" if is_not_shown else "_target_") in shown
    is_for_failed_jobs = path == "attribute:_return_value"  # of which there are none here
    assert has_met(path, run, sweep, page, mistake, shown) != is_for_failed_jobs


def test_a_checkout_that_is_not_installed_has_the_version_that_it_would_be_installed_as(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = importlib.metadata.version("bnlab")
    assert own_version() == installed

    def not_there(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_there)
    assert own_version() == installed
