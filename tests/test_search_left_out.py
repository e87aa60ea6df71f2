"""What a choice does not have is left out where it is drawn, and equal configurations run once."""

import itertools
import signal
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from simulated_sweep import SAMPLERS

import bnlab

KEYS = ("optimizer", "optimizer.beta1", "data.batch_size")
SPACE = ("optimizer=sgd,adam", "optimizer.beta1=0.9,0.99", "data.batch_size=32,64,128")
SIZES = ("32", "64", "128")
ALL_OF_IT = {("sgd", "", size) for size in SIZES} | set(itertools.product(("adam",), ("0.9", "0.99"), SIZES))


def value(config) -> float:
    """Which falls with the batch size and differs between all configurations."""
    return 1 / config.data.batch_size + config.optimizer.get("beta1", 0) / 1000 + config.seed * 1e-6


def configurations(left) -> list[tuple[str, ...]]:
    return [tuple(row[key] for key in KEYS) for row in left.rows if row["status"] == "completed"]


def test_a_grid_has_each_configuration_once_and_says_what_is_left_out(sweep) -> None:
    outcome, left = sweep("norm=batch,none", "norm.placement=before,after", task=lambda config: 0.5)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    rows = [(row["norm"], row["norm.placement"]) for row in left.rows]
    assert rows == [("batch", "before"), ("batch", "after"), ("none", "")]
    said = "`norm.placement` is left out with norm=none, which has no such setting."
    assert outcome.stdout.count(said) == 1


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("model.num_layers=0,1,2", "model.num_units=16,32"), 5),
        (("trainer.gradient_clip_val=null,1", "trainer.gradient_clip_algorithm=norm,value"), 3),
        (("model.num_layers=1,2", "model.num_units=16,32"), 4),
        (("model.num_layers=0", "+notes.x=1,2"), 2),
    ],
)
def test_what_differs_in_what_no_run_reads_runs_once(arguments, left, sweep) -> None:
    outcome, found = sweep(*arguments, task=lambda config: 0.5)
    assert outcome.exit_code == 0, outcome.stderr
    assert len(found.rows) == left
    assert ("only in settings that no run reads: they are left out" in outcome.stdout) == (left in (5, 3))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_no_sampler_draws_a_configuration_twice(kind, sweep) -> None:
    outcome, left = sweep(*SPACE, f"search={kind}", "search.num_trials=8", "search.seeds=2", task=value)
    assert outcome.exit_code == 0, outcome.stderr
    found = configurations(left)
    assert found[::2] == found[1::2]  # the two seeds
    assert len(set(found)) == len(found) / 2 == 8
    assert set(found) < ALL_OF_IT


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_a_space_that_is_smaller_than_the_search_is_tried_whole(kind, sweep) -> None:
    outcome, left = sweep(*SPACE, f"search={kind}", task=value)
    assert outcome.exit_code == 0, outcome.stderr
    assert len(left.rows) == 9
    assert set(configurations(left)) == ALL_OF_IT
    assert "The space has 9 configurations, each of which is tried once, instead of 20." in outcome.stdout


def test_where_a_choice_leaves_nothing_to_draw_it_is_tried_once(sweep) -> None:
    outcome, left = sweep(
        *("optimizer=sgd,adam", "optimizer.beta1=tag(one_minus_log,interval(0.9,0.999))"),
        *("search=random", "search.num_trials=6"),
        task=value,
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert sorted(row["optimizer"] for row in left.rows) == [*["adam"] * 5, "sgd"]
    assert len({row["optimizer.beta1"] for row in left.rows}) == 6


def test_one_value_is_left_out_too_though_the_default_lacks_it(sweep) -> None:
    outcome, left = sweep("optimizer=sgd,momentum", "optimizer.momentum=0.8", "optimizer.lr=0.1,0.2", task=value)
    assert outcome.exit_code == 0, outcome.stderr
    rows = [(row["optimizer"], row["optimizer.momentum"]) for row in left.rows]
    assert rows == [("sgd", "")] * 2 + [("momentum", "0.8")] * 2
    seen = [bnlab.compose(line.split()).optimizer for line in ("optimizer=momentum optimizer.momentum=0.8",)]
    assert seen[0].momentum == 0.8


def test_what_a_class_does_not_take_is_left_out_though_it_is_added(sweep) -> None:
    outcome, left = sweep("optimizer=sgd,adam", "+optimizer.amsgrad=true,false", task=value)
    assert outcome.exit_code == 0, outcome.stderr
    assert [row["optimizer.amsgrad"] for row in left.rows] == ["", "True", "False"]


def test_the_job_gets_what_its_row_says(sweep) -> None:
    seen = []

    def task(config):
        hydra = HydraConfig.get()
        seen.append((hydra.runtime.choices.norm, config.norm.get("placement", "")))
        return 0.5

    _, left = sweep("norm=batch,none", "norm.placement=before,after", "search.seeds=2", task=task)
    assert seen == [(row["norm"], row["norm.placement"]) for row in left.rows]


def test_a_resumed_search_goes_on_to_what_was_not_tried(sweep, train, monkeypatch) -> None:
    def interrupts(config):
        if HydraConfig.get().runtime.output_dir.endswith("/3"):
            signal.raise_signal(signal.SIGTERM)
        return value(config)

    arguments = (*SPACE, "search=random", "search.num_trials=7")
    _, whole = sweep(*arguments, task=value, folder="whole")
    _, left = sweep(*arguments, "search.batch_size=1", task=interrupts)
    assert len(configurations(left)) == 3
    monkeypatch.setattr("bnlab.train.task", value)
    assert train("-m", "search.resume=sweep").exit_code == 0
    assert sorted(configurations(left)) == sorted(configurations(whole))
    more = train("-m", "search.resume=sweep", "search.num_trials=30")  # more than there are
    assert more.exit_code == 0, more.stderr
    assert len(configurations(left)) == 9
    assert set(configurations(left)) == ALL_OF_IT


def test_stacked_networks_without_the_setting_train_as_they_do_alone(train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[8]")
    outcome = train(
        *("-m", "hydra/launcher=stacked", "hydra.launcher.n_jobs=1", "hydra.sweep.dir=sweep", *quick),
        *("norm=batch,none", "norm.placement=before,after"),
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert sorted(path.name for path in Path("sweep").glob("[0-9]")) == ["0", "1", "2"]
    train(*quick, "norm=none", "hydra.run.dir=alone")
    alone, stacked = bnlab.load("alone"), bnlab.load("sweep/2")
    assert stacked.overrides == [*quick, "norm=none"]
    assert stacked.metrics["train_loss"] == pytest.approx(alone.metrics["train_loss"], rel=1e-5)
