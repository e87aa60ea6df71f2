"""Every command and every snippet of the README runs."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from bnlab.bench.__main__ import main as bench

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]
INSTALLING = [line for line in COMMANDS if line.startswith("pip install")]
RUNNING = [line for line in COMMANDS if not line.startswith("pip install")]
# What makes a command that takes minutes take seconds, without changing what it does.
SHORTER = {
    "bnlab.train": ["trainer.max_epochs=1"],
    "bnlab.train -m": ["trainer.max_epochs=1", "search.num_trials=3", "search.seeds=1"],
    "bnlab.bench train": ["--rounds", "1", "--template-steps", "5"],
    "bnlab.bench search": ["--trials", "10", "--rounds", "1"],
    "bnlab.bench sweep": ["--cases", "A", "--networks", "2", "--rounds", "1", "--launchers", "stacked"],
    "bnlab.bench batch_norm --exactness": ["--samples", "64"],
    "bnlab.bench batch_norm": ["--rounds", "1", "--shapes", "64x256", "--threads", "1", "--modes", "eager"],
}


def test_the_two_commands_are_those_that_ci_types() -> None:
    """They install gigabytes: `.ci/run` runs them in a fresh environment, and here only the words are compared."""
    script = (REPOSITORY / ".ci/run").read_text().replace("install -q", "install").replace("pytest -q", "pytest")
    assert len(INSTALLING) == 2
    for command in INSTALLING:
        assert command in script


@pytest.mark.parametrize("command", RUNNING)
def test_command_runs(
    command: str,
    train: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """In this process, where Lightning is imported already: `.ci/run` types the first one in a process of its own."""
    words = shlex.split(command)
    if any("../shared/data" in word for word in words):
        root = str(request.getfixturevalue("mnist_root"))
        words = [word.replace("../shared/data", root) for word in words]
    python, option, module, *arguments = words
    assert (python, option) == ("python", "-m")
    extra = next((SHORTER[key] for key in sorted(SHORTER, reverse=True) if " ".join(words[2:]).startswith(key)), [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    if module == "bnlab.train":
        outcome = train(*arguments, *extra)
        assert outcome.exit_code == 0, outcome.stderr
        assert outcome.stdout
    else:
        assert module == "bnlab.bench"
        bench([*arguments, *extra])
        assert capsys.readouterr().out


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import bnlab
    from bnlab.fit import fit

    stacking, reading, using = blocks("python")
    folder = tmp_path / re.search(r'load\("(.*?)"\)', reading)[1]
    fit(bnlab.compose(["trainer.max_epochs=2"]), folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(stacking, names)
    assert [summary["status"] for summary in names["summaries"]] == ["completed"] * 3
    names = {"x": torch.rand(5, 1, 8, 8)}
    exec(reading, names)
    assert names["logits"].shape == (5, 10)
    exec(using, names)
    expected = torch.nn.functional.batch_norm(torch.zeros(60, 100), None, None, training=True)
    assert names["y"].shape == expected.shape
    torch.testing.assert_close(names["y"].std(0, unbiased=False), torch.ones(100), rtol=1e-3, atol=0)


def test_every_choice_the_readme_names_is_a_config_and_the_other_way_round() -> None:
    for group, listed in re.findall(r"^\| `(data|norm|optimizer|scheduler|logger)=` \| (.*?) \|", README, re.MULTILINE):
        named = set(re.findall(r"`(\w+)`", listed))
        assert named == {path.stem for path in (REPOSITORY / "conf" / group).glob("*.yaml")}, group


def test_a_folder_of_ones_own_configs_extends_a_group(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_conf/optimizer").mkdir(parents=True)
    (tmp_path / "my_conf/optimizer/mine.yaml").write_text("_target_: torch.optim.Adagrad\nlr: 0.05\n")
    (tmp_path / "my_conf/data").mkdir()
    (tmp_path / "my_conf/data/mine.yaml").write_text("_target_: my_package.load\nnoise: 0.5\n")
    (tmp_path / "my_package.py").write_text(
        "import torch\n"
        "from bnlab.data import Split, Splits\n"
        "def load(noise, split_seed):\n"
        "    x = torch.randn(90, 6)\n"
        "    split = Split(x + noise * torch.randn_like(x), (x[:, 0] > 0).long())\n"
        "    return Splits(split, split, split, num_classes=2)\n"
    )
    command = ["--config-dir", "my_conf", "data=mine", "optimizer=mine", "trainer.max_epochs=2", "hydra.run.dir=run"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    outcome = train(*command)
    assert outcome.exit_code == 0, outcome.stderr
    assert "torch.optim.Adagrad" in (tmp_path / "run/config.yaml").read_text()
