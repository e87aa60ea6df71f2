"""A data set of a user's own, from `own_data.py` and `own_configs`, in every way of training."""

from inspect import signature
from pathlib import Path

import pytest
import torch
from own_data import spirals

import bnlab
import bnlab.data
from bnlab.data_sets import DATA_SETS
from bnlab.mistakes.signature import arguments_of_target

CONFIGS = Path(__file__).parent / "own_configs"
OWN = ("--config-dir", CONFIGS, "data=spirals", "trainer.max_epochs=20", "data.batch_size=20")


@pytest.mark.parametrize("trainer", ["default", "quick"])
def test_a_run_learns_what_its_function_gives(train, tmp_path, monkeypatch, trainer) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(*OWN, f"trainer={trainer}", "hydra.run.dir=run", "data.split_seed=3").exit_code == 0
    run = bnlab.load(tmp_path / "run")
    test = spirals(400, split_seed=3).test
    share = float((run.predict(test.x) == test.y).double().mean())
    assert run.summary["test_accuracy"] == pytest.approx(share) == pytest.approx(1, abs=0.1)
    assert run.summary["sample_shape"] == [2]


def test_its_targets_are_numbers_where_the_task_is_a_regression(train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(*OWN, "trainer=quick", "task=regression", "data=spirals", "hydra.run.dir=run").exit_code == 0
    run = bnlab.load(tmp_path / "run")
    test = spirals(400, task="regression").test
    residual = run.predict(test.x).double() - test.y
    assert run.summary["test_loss"] == pytest.approx(float(residual.square().mean()), rel=1e-4)
    assert run.summary["test_r2"] > 0.9


def test_a_stacked_sweep_varies_its_arguments(train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    stacked = ("hydra/launcher=stacked", "hydra.sweep.dir=sweep")
    assert train("-m", *OWN, *stacked, "data.noise=0.05,1.0", "optimizer.lr=0.01,0.001").exit_code == 0
    sweep = bnlab.load_sweep(tmp_path / "sweep")
    by_noise: dict[str, list[float]] = {}
    for noise, accuracy in zip(sweep.metrics["data.noise"], sweep.metrics["test_accuracy"], strict=True):
        by_noise.setdefault(str(noise), []).append(accuracy)
    assert min(by_noise["0.05"]) > 0.7 > max(by_noise["1.0"])
    run = sweep.run(0)
    test = spirals(400, noise=0.05).test
    assert run.summary["test_accuracy"] == pytest.approx(float((run.predict(test.x) == test.y).double().mean()))
    assert torch.equal(test.x, spirals(400, noise=0.05).test.x)


def test_no_module_hides_the_function_of_the_house_that_has_its_name() -> None:
    """Importing a module puts it into its package, in place of what the package would import on first use."""
    import bnlab.data
    from bnlab.data_sets import DATA_SETS

    for name in (*DATA_SETS, *DATA_SETS):
        assert getattr(bnlab.data, name).__name__ == name
    assert not {data_set.home for data_set in DATA_SETS.values()} & {*DATA_SETS}


def test_what_the_functions_of_the_house_take_is_known_before_they_are_imported() -> None:
    for name in DATA_SETS:
        assert arguments_of_target(f"bnlab.data.{name}") == signature(getattr(bnlab.data, name)).parameters.keys()
