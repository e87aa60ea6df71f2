"""Figures of a user's own, from `own_figure.py` and `own_configs`."""

import io
from pathlib import Path

import numpy as np
import pytest
from own_figure import learning_rate
from PIL import Image

import bnlab
from bnlab.figures import picture

CONFIGS = Path(__file__).parent / "own_configs"
OWN = ("--config-dir", CONFIGS, "+figures=own", "trainer.max_epochs=2")


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def check(folder: Path) -> None:
    run = bnlab.load(folder)
    drawn = pixels((folder / "learning_rate.png").read_bytes())
    assert np.array_equal(drawn, pixels(picture(learning_rate(run, "red"))))
    assert not np.array_equal(drawn, pixels(picture(learning_rate(run, "blue"))))
    assert (folder / "weights.png").is_file()
    assert run.summary["status"] == "completed"


@pytest.mark.parametrize("trainer", ["default", "quick"])
def test_a_run_draws_them_of_itself(train, tmp_path, monkeypatch, trainer) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(*OWN, f"trainer={trainer}", "hydra.run.dir=run").exit_code == 0
    check(tmp_path / "run")


def test_each_trial_of_a_stack_draws_them(train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = ["+figures.bad._target_=own_figure.raises"]
    stacked = ["hydra/launcher=stacked", "hydra.sweep.dir=sweep", "optimizer.lr=0.1,0.01"]
    assert train("-m", *OWN, *bad, *stacked).exit_code == 0
    for number in "01":
        check(tmp_path / "sweep" / number)
        log = (tmp_path / "sweep" / number / "train.log").read_text()
        assert "`figures.bad` is not drawn: ZeroDivisionError: of the figure" in log


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_figure.raises", "`figures.bad` is not drawn: ZeroDivisionError: of the figure\n"),
        (
            "own_figure.text",
            "`figures.bad` is not drawn: TypeError: it must return a matplotlib Figure, but returned 'no",
        ),
    ],
)
def test_one_that_fails_costs_a_line(train, tmp_path, monkeypatch, target, message) -> None:
    monkeypatch.chdir(tmp_path)
    bad = f"+figures.bad._target_={target}"
    outcome = train("trainer=quick", "trainer.max_epochs=1", bad, "hydra.run.dir=run")
    assert outcome.exit_code == 0
    assert message in outcome.stdout
    assert bnlab.load(tmp_path / "run").summary["status"] == "completed"
    assert not (tmp_path / "run" / "bad.png").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+figures.curves._target_=own_figure.weights", "`figures.curves` must have another name: a run draws"),
        ("+figures.own=weights", "`figures.own` must name a function as `_target_`, but got 'weights'"),
        ("+figures.own._target_=own_figure.nothing", "own_figure has no 'nothing'"),
    ],
)
def test_a_mistake_ends_in_a_line_before_any_training(train, tmp_path, monkeypatch, override, message) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(override)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_of_somebody_else_draws_only_with_trust(train, tmp_path, monkeypatch) -> None:
    from bnlab.engines.repetition import repeat
    from bnlab.errors import UserError

    monkeypatch.chdir(tmp_path)
    assert train("trainer=quick", *OWN, "hydra.run.dir=run").exit_code == 0
    with pytest.raises(UserError, match=r"own_figure.learning_rate' in `figures"):
        repeat("run", "again")


def test_a_sweep_draws_them_of_its_trials(train, tmp_path, monkeypatch) -> None:
    from own_figure import seconds

    monkeypatch.chdir(tmp_path)
    own = ["+search.figures.seconds._target_=own_figure.seconds", "+search.figures.bad._target_=own_figure.raises"]
    quick = ["trainer=quick", "trainer.max_epochs=1", "hydra.sweep.dir=sweep", "optimizer.lr=0.1,0.01"]
    outcome = train("-m", *quick, *own)
    assert outcome.exit_code == 0, outcome.stderr
    assert "`figures.bad` is not drawn: ZeroDivisionError: of the figure" in outcome.stdout + outcome.stderr
    sweep = bnlab.load_sweep("sweep")
    assert np.array_equal(pixels(Path("sweep/seconds.png").read_bytes()), pixels(picture(seconds(sweep))))


@pytest.mark.parametrize("own", ["+search.figures.own=seconds", "+search.figures.search._target_=own_figure.seconds"])
def test_a_sweep_refuses_what_is_no_figure(train, tmp_path, monkeypatch, own) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train("-m", "optimizer.lr=0.1,0.01", own)
    assert outcome.exit_code == 2
    assert "`search.figures." in outcome.stderr
