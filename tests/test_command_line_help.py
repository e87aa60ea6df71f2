"""The page of `python -m bnlab.train --help`."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from simulated_sweep import SAMPLERS

from bnlab.commands import commands
from bnlab.composing import compose
from bnlab.config.folder import config_folder
from bnlab.config.settings import plain
from bnlab.hydra_plugins.help_text import EXAMPLES, LAUNCHERS, SYNTAX, comments_of
from bnlab.search.spaces.from_override import parameter_of

CONFIGS = Path(config_folder())


@pytest.fixture
def page(train: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def show(*arguments: str, width: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = train("--help", *arguments)
        assert (outcome.exit_code, outcome.stderr) == (0, "")
        return outcome.stdout

    return show


def leaves(node: dict, above: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        found += leaves(value, f"{above}{key}.") if isinstance(value, dict) and value else [f"{above}{key}"]
    return [key for key in found if not key.endswith("_target_")]


def test_help_imports_neither_torch_nor_lightning() -> None:
    """Which is what makes it quick; `python -m bnlab.bench search` times it."""
    command = [sys.executable, "-X", "importtime", "-m", "bnlab.train", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not imported & {"torch", "lightning", "optuna", "matplotlib", "sklearn"}
    assert "optimizer.lr=0.002" in shown.stdout


def test_every_setting_stands_there_as_it_is_typed_and_nothing_for_developers(page) -> None:
    text = page()
    for key in leaves(plain(compose())):
        assert re.search(rf"^  '?{re.escape(key)}=", text, re.MULTILINE), key
    assert "_target_" not in text
    assert "${" not in text


def test_what_the_yaml_says_stands_beside_a_setting(page) -> None:
    text = " ".join(page(width=140).split())
    num_comments = 0
    files = ["train.yaml", "data/digits.yaml", "model/mlp.yaml", "norm/batch.yaml", "optimizer/adam.yaml"]
    for name in [*files, "scheduler/cosine.yaml", "trainer/default.yaml"]:
        about, comments = comments_of(CONFIGS / name)
        assert about[:60] in text or name == "train.yaml"
        for key, comment in comments.items():
            if not key.startswith("hydra") and key not in ("data", "search", "search.num_trials", "search.space"):
                assert " ".join(comment.split()) in text, key
                num_comments += 1
    assert num_comments > 35


def test_what_is_chosen_is_what_is_shown(page) -> None:
    text = page("norm=ghost", "optimizer.lr=0.5")
    assert "norm.virtual_batch_size=32" in text
    assert "optimizer.lr=0.5 " in text
    assert "norm=ghost: Ghost batch norm" in text
    assert "norm                            ghost, batch, none, renorm, torch" in text


@pytest.mark.parametrize("width", [80, 140])
def test_it_fits_the_terminal(width: int, page) -> None:
    assert max(map(len, page(width=width).splitlines())) <= width


def test_it_names_sweeps_launchers_and_the_other_commands(page) -> None:
    text = page()
    for launcher in LAUNCHERS:
        assert f"hydra/launcher={launcher}" in text
    for command in commands():
        assert command.name == "train" or command.usage in text
    for kind in ("grid", *SAMPLERS):
        assert f"  search={kind} " in text
    for left, _ in (*EXAMPLES, *SYNTAX):
        assert left in text


@pytest.mark.parametrize("example", [line for line, _ in EXAMPLES])
def test_its_examples_are_understood(example: str, train: Callable) -> None:
    words = shlex.split(example)[3:]
    assert train("--cfg", "job", *(word for word in words if word != "--help")).exit_code == 0


@pytest.mark.parametrize("line", [line for line, _ in SYNTAX])
def test_its_syntax_of_a_space_is_understood_after_a_shell(line: str) -> None:
    (word,) = shlex.split(line)
    parameter_of(OverridesParser.create().parse_override(word), seed=0).check_rule()
    shell = subprocess.run(["sh", "-c", f"printf %s {line}"], capture_output=True, text=True, check=True)
    assert shell.stdout == word


def test_comments_are_read_by_their_full_keys(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(
        "# First.\n# Second.\na: 1   # one\nb:\n  c: 'x#y'\n  d: 2  # two\n'e': 3\n# not at the top\nf: 4 # four\n"
    )
    assert comments_of(file) == ("First. Second.", {"a": "one", "b.d": "two", "f": "four"})
