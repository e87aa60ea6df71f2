"""Every command and every snippet of the README and of the lesson runs, in the order of the page."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
LESSON = (REPOSITORY / ".github" / "LESSON.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks("bash", page) for line in block.splitlines() if line]


INSTALLING = [line for line in commands(README) if line.startswith("pip install")]
PAGES = {
    "readme": [line for line in commands(README) if not line.startswith("pip install")],
    "lesson": commands(LESSON),
}
# What makes a command that takes minutes take seconds, without changing what it does.
SHORTER = {
    "bnlab.train": ["trainer.max_epochs=1"],
    "bnlab.train resume": [],
    "bnlab.train -m": ["trainer.max_epochs=1", "search.num_trials=3", "search.seeds=1"],
    # later commands look at its trials 6 and 24
    "bnlab.train -m hydra/launcher=stacked optimizer=sgd": ["trainer.max_epochs=1"],
    "bnlab.bench train": ["--rounds", "1", "--template-steps", "5", "--root", "MNIST"],
    "bnlab.bench search": ["--trials", "10", "--rounds", "1"],
    "bnlab.bench start": ["--rounds", "1", "trainer.max_epochs=1"],
    "bnlab.bench sweep": ["--cases", "A", "--networks", "2", "--rounds", "1", "--launchers", "stacked"],
    "bnlab.bench batch_norm --exactness": ["--samples", "64"],
    "bnlab.bench batch_norm": ["--rounds", "1", "--shapes", "64x256", "--threads", "1", "--modes", "eager"],
}


# These start many processes, however short they are; they run from the wheel.
LONG = ("python -m bnlab.bench start", "python -m bnlab.bench sweep")


def words_of(command: str, mnist: Path, *, is_short: bool) -> list[str]:
    """The arguments of `python`."""
    python, *words = shlex.split(command)
    assert python == "python"
    if is_short:
        typed = " ".join(words[1:])
        added = next((SHORTER[key] for key in sorted(SHORTER, reverse=True) if typed.startswith(key)), [])
        words += [str(mnist) if word == "MNIST" else word for word in added]
    return [*words, f"data.root={mnist}"] if "data=mnist" in words else words


def test_the_two_commands_are_those_that_ci_types() -> None:
    """They install gigabytes: `.ci/run` runs them in a fresh environment, and here only the words are compared."""
    script = (REPOSITORY / ".ci/run").read_text().replace("install -q", "install").replace("pytest -q", "pytest")
    assert len(INSTALLING) == 2
    for command in INSTALLING:
        assert command in script


def test_commands_of_the_readme_run_one_after_the_other(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_root: Path, capsys: pytest.CaptureFixture
) -> None:
    """In this process, where Lightning is imported already: `.ci/run` types the first one in a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for command in PAGES["readme"]:
        if command.startswith(LONG):
            continue
        option, module, *arguments = words_of(command, mnist_root, is_short=True)
        assert option == "-m"
        if module == "bnlab.train":
            outcome = train(*arguments)
            assert outcome.exit_code == 0, (command, outcome.stderr)
            assert outcome.stdout
            continue
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.__main__")]:
            monkeypatch.delitem(sys.modules, name)  # runpy warns of a module that is there
        capsys.readouterr()
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            if stop.code:
                pytest.fail(f"{command}: {capsys.readouterr().err}")
        assert capsys.readouterr().out, command


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run_from_a_wheel_in_an_empty_folder(page: str, tmp_path: Path, mnist_root: Path) -> None:
    """As typed, each in a process of its own; what takes minutes is shorter. The pictures are those of the page."""
    pictures = {"readme": README, "lesson": LESSON}[page]
    wheels, installed, empty = (tmp_path / name for name in ("wheels", "installed", "empty"))
    empty.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, REPOSITORY]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", installed, wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = {"PYTHONPATH": str(installed), "COLUMNS": "120", "BNLAB_CACHE": str(tmp_path / "cache")}
    environment = {**os.environ, **environment}
    where = subprocess.check_output(
        [sys.executable, "-c", "import bnlab; print(bnlab.__file__)"], env=environment, cwd=empty, text=True
    )
    assert where.startswith(str(installed))
    for command in PAGES[page]:
        makes_picture = "learning_rates " in f"{command} " or "coarse_to_fine hydra" in command or "inside" in command
        is_short = not makes_picture and ("-m bnlab.bench" in command or "data=mnist" in command)
        words = words_of(command, mnist_root, is_short=is_short)
        ended = subprocess.run(
            [sys.executable, *words], cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (command, ended.stderr)
        assert "Traceback" not in ended.stderr, command
    made_by = {
        "learning_rates.png": "outputs/learning_rates/search.png",
        "inside.png": "outputs/inside/inside.png",
        "coarse_to_fine.png": "outputs/lesson/coarse_to_fine/search.png",
    }
    for name in re.findall(r"\]\((?:\.github/)?pictures/([\w.]+)\)", pictures):
        shown, made = REPOSITORY / ".github" / "pictures" / name, empty / made_by[name]
        assert is_same_picture(shown, made), name


def is_same_picture(one: Path, other: Path) -> bool:
    """But for what another version of matplotlib or another rounding moves by a little."""
    from matplotlib.image import imread

    a, b = (imread(path)[..., :3] for path in (one, other))
    return a.shape == b.shape and float(np.abs(a - b).mean()) < 0.02


def test_pictures_of_the_pages_are_there() -> None:
    for page, folder in ((README, REPOSITORY), (LESSON, REPOSITORY / ".github")):
        named = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
        assert named
        for name in named:
            assert (folder / name).read_bytes().startswith(b"\x89PNG"), name


def test_links_of_the_pages_lead_somewhere() -> None:
    for page, folder in ((README, REPOSITORY), (LESSON, REPOSITORY / ".github")):
        for link in re.findall(r"(?<!!)\[[^\]]+\]\((?!http)([^)]+)\)", page):
            assert (folder / link).is_file(), link


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    import torch

    calling, stacking, using = blocks("python")
    monkeypatch.chdir(tmp_path)
    names = {"x": torch.rand(5, 1, 8, 8)}
    exec(
        calling.replace('"trainer=quick"', '"trainer=quick", "trainer.max_epochs=2"').replace(
            '"search.seeds=2"', '"search.seeds=2", "trainer.max_epochs=2"'
        ),
        names,
    )
    assert names["classes"].shape == (5,)
    assert "norm" in capsys.readouterr().out
    assert len(names["again"][1]) == 4
    names = {}
    exec(stacking, names)
    assert [summary["status"] for summary in names["summaries"]] == ["completed"] * 3
    exec(using, names)
    torch.testing.assert_close(names["y"].std(0, unbiased=False), torch.ones(100), rtol=1e-3, atol=0)
    assert names["folded"](torch.randn(7, 784)).shape == (7, 100)


def test_every_choice_the_readme_names_is_a_config_and_the_other_way_round() -> None:
    for group, listed in re.findall(
        r"^\| `(task|data|norm|optimizer|scheduler|trainer|logger)=` \| (.*?) \|", README, re.MULTILINE
    ):
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
