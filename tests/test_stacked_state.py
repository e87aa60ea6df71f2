"""A stack that goes on from what a killed one has left ends with the same bits as one that nothing disturbed."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from stacked_oracle import configs_of
from torch import nn

from bnlab.search.study.folder import UNFINISHED
from bnlab.stacked import pace, training
from bnlab.stacked.data import load_data
from bnlab.stacked.job import Job
from bnlab.stacked.processes.worker import _go_on, train_chunk
from bnlab.stacked.trial import StackedTrial
from bnlab.stacked.unfinished import Unfinished

EPOCHS = 6
SHORT = [f"trainer.max_epochs={EPOCHS}", "data.batch_size=256"]
TIMES = ("seconds", "samples_per_second")
STOPPING = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_loss"}


@pytest.fixture(autouse=True, scope="module")
def restored_pace():
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((pace, "EVERY_S"), (pace, "SHARE"), (training, "LOOK_EVERY_S")):
            patch.setattr(module, name, getattr(module, name))
        yield


class KilledError(Exception):
    """Stands for the end of the process: nothing is written after it."""


def train(jobs: Sequence[Job], stop_in: int | None = None) -> None:
    """In one stack; one that ends in the middle of epoch `stop_in` writes after each epoch before."""
    pace.EVERY_S, pace.SHARE, training.LOOK_EVERY_S = 1e9 if stop_in is None else 0.0, float("inf"), 0.0

    def look(epoch: int, num_trials: int) -> None:
        if epoch == stop_in:
            raise KilledError

    with suppress(KilledError):
        for _ in train_chunk(jobs, look, lambda curves: [b""] * len(curves)):
            pass


def jobs_in(folder: Path, configs: Sequence[DictConfig]) -> list[Job]:
    return [Job(number, config, folder / str(number)) for number, config in enumerate(configs)]


def states_of(folder: Path, new: Path) -> Path:
    """Take what stacks in `folder` have left for others to go on with, and nothing else, to a new folder."""
    new.mkdir()
    (folder / UNFINISHED).rename(new / UNFINISHED)
    return new


def left_in(folder: Path) -> tuple:
    """All that is no time."""
    summary = json.loads((folder / "summary.json").read_text())
    rows = [line.rpartition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]
    checkpoints = sorted((folder / "checkpoints").iterdir())
    return (
        {key: value for key, value in summary.items() if key not in TIMES},
        rows,
        {path.name: flat(torch.load(path, weights_only=True)) for path in checkpoints},
    )


def flat(values: object) -> object:
    if isinstance(values, torch.Tensor):
        return values.dtype, values.shape, values.contiguous().numpy().tobytes()
    if isinstance(values, dict):
        return {key: flat(value) for key, value in values.items()}
    return [flat(value) for value in values] if isinstance(values, list | tuple) else values


def check_same(configs: Sequence[DictConfig], undisturbed: Path, folder: Path, after: Sequence[int | None]) -> None:
    """Each says after which epoch it went on, if it did, and every epoch once."""
    for number, epoch in zip(range(len(configs)), after, strict=True):
        expected = left_in(undisturbed / str(number))
        assert left_in(folder / str(number)) == expected, number
        log = (folder / str(number) / "train.log").read_text()
        num_epochs = expected[0]["epochs"]
        assert [log.count(f" epoch {each}: train_") for each in range(1, num_epochs + 1)] == [1] * num_epochs
        if epoch is None:
            assert ": continues" not in log
        else:
            assert (
                f": continues after epoch {epoch}\n" if num_epochs > epoch else ": continues with its test\n"
            ) in log
    assert not (folder / UNFINISHED).exists()


@pytest.mark.parametrize(
    "common",
    [
        ["optimizer=sgd", "norm=none"],
        ["optimizer=momentum", "trainer.gradient_clip_val=0.1"],
        ["optimizer=nesterov", "norm.momentum=null"],
        ["optimizer=rmsprop", "norm=torch", "norm.momentum=null"],
        ["optimizer=rmsprop", "optimizer.momentum=0.5", "scheduler=step", "scheduler.step_size=2"],
        ["optimizer=adam", "scheduler=inverse_time", "trainer.precision=64-true"],
        ["optimizer=adamw", "scheduler=exponential", "data.batch_size=full"],
        pytest.param(["norm=ghost", "norm.virtual_batch_size=64"], marks=pytest.mark.slow),
        ["norm=renorm", "norm.ramp_start=5", "norm.ramp_end=20"],
        pytest.param(["model.activation=gelu", "trainer.max_steps=28"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_stack_that_goes_on_ends_with_the_same_bits(common, tmp_path: Path) -> None:
    """The second diverges early where it can, the third stops by itself: they wait for the others to end."""
    each = [{"seed": 1}, {"seed": 2, "optimizer.lr": 1e30}, {"seed": 3, "optimizer.lr": 0.3}]
    configs = configs_of([*SHORT, *common], each)
    for index, patience in ((0, 3), (2, 1)):
        configs[index].callbacks = {"stop": STOPPING | {"patience": patience}}
    train(jobs_in(tmp_path / "undisturbed", configs))
    train(jobs_in(tmp_path / "stopped", configs), stop_in=5)
    folder = states_of(tmp_path / "stopped", tmp_path / "again")
    train(jobs_in(folder, configs))
    check_same(configs, tmp_path / "undisturbed", folder, [4] * 3)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[DictConfig], Path]:
    """The configs of four networks of one stack, and what they leave."""
    each = [{"seed": seed, "optimizer.lr": 0.01 * (seed + 1)} for seed in range(4)]
    configs = configs_of([*SHORT, "optimizer=adam"], each)
    folder = tmp_path_factory.mktemp("four")
    train(jobs_in(folder, configs))
    return configs, folder


@pytest.fixture(scope="module")
def after_three(four, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what they had come to after the third epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    train(jobs_in(folder, four[0]), stop_in=4)
    return states_of(folder, folder / "states")


@pytest.fixture
def stopped(after_three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(after_three, tmp_path / "again"))


def test_networks_go_on_in_other_stacks(four, stopped: Path) -> None:
    configs, undisturbed = four
    jobs = jobs_in(stopped, configs)
    train(jobs[3:])
    train([jobs[2], jobs[0], jobs[1]])
    check_same(configs, undisturbed, stopped, [3] * 4)


def test_networks_that_have_come_to_different_epochs_go_on_each_from_its_own(four, stopped: Path) -> None:
    configs, undisturbed = four
    Unfinished(jobs_in(stopped, configs)[1]).remove()
    train([Job(2, configs[2], stopped / "first try")], stop_in=6)
    train(jobs_in(stopped, configs))
    check_same(configs, undisturbed, stopped, [3, None, 5, 3])


def test_a_network_goes_on_again_and_again(four, stopped: Path) -> None:
    configs, undisturbed = four
    for epoch in (5, 6):
        train([Job(n, config, stopped / f"{n} until {epoch}") for n, config in enumerate(configs)], stop_in=epoch)
    train(jobs_in(stopped, configs))
    check_same(configs, undisturbed, stopped, [5] * 4)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def altered(**changes: object) -> Callable[[Path], None]:
    """Write it again, whole and with other values."""

    def alter(path: Path) -> None:
        stored = torch.load(path, weights_only=True)
        for key, value in changes.items():
            if key in stored:
                stored[key] = value
            else:
                stored["state"][key] = value(stored["state"][key]) if callable(value) else value
        torch.save(stored, path)

    return alter


class Exploding:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damaged, "it is damaged ("),
        (empty, "it is damaged (EOFError)"),
        (lambda path: torch.save(Exploding(), path), "it is damaged (UnpicklingError)"),
        (lambda path: torch.save([], path), "it is damaged (TypeError)"),
        (altered(key="another"), "it belongs to another config"),
        (altered(data="others"), "the data have changed"),
        (altered(state={}), "it is not a state"),
        (altered(rows=lambda rows: rows[1:]), "its row 1 is invalid"),
        (altered(rows=lambda rows: [row | {"lr": 0.5} for row in rows]), "the learning rate of epoch 1 was 0.5, not"),
        (altered(network=lambda network: {}), "its tensors have other names"),
        (altered(moments=lambda moments: {name: row[1:] for name, row in moments.items()}), "its exp_avg has another"),
        (altered(best=None), "its best epoch contradicts its rows"),
        (altered(status="completed"), "its status contradicts its last epoch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_state_of_this_training_is_refused_and_removed(spoil, reason, four, stopped, monkeypatch) -> None:
    monkeypatch.chdir(stopped)
    trial = StackedTrial(Job(0, four[0][0], stopped / "0"))
    network, unfinished = trial.build(load_data(trial.config)), Unfinished(trial.job)
    spoil(unfinished.path)
    said: list[str] = []
    assert _go_on(trial, network, unfinished, said.append) is not network
    assert (trial.going_on, trial.status, trial.history.rows, trial.lr) == (None, None, [], 0.01)
    (line,) = trial._lines
    assert f"cannot be used and is removed: {reason}" in line
    assert [line.partition(" cannot be used and is removed: ")[0] for line in said] == [
        f"0 starts again, because its state in {unfinished.path.relative_to(stopped)}"
    ]
    assert reason in said[0]
    assert not unfinished.path.exists()
    assert not Path("exploded").exists()


class Counting(nn.Module):
    """Remembers how often it was called, where no stack looks."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, **named: object) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_classes)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layer(x.flatten(1))


def test_a_network_that_cannot_be_kept_says_so_once(tmp_path: Path) -> None:
    configs = configs_of(SHORT, [{"optimizer.lr": lr} for lr in (0.01, 0.1)])
    for config in configs:
        config.model = {"_target_": f"{__name__}.Counting"}
    pace.EVERY_S, pace.SHARE, training.LOOK_EVERY_S = 0.0, float("inf"), 1.0
    for _ in train_chunk(jobs_in(tmp_path, configs), lambda epoch, num: None, lambda curves: [b""] * len(curves)):
        pass
    for number in range(2):
        log = (tmp_path / str(number) / "train.log").read_text()
        assert log.count("not saved for another process: a module keeps what training changes in attributes") == 1


def test_beside_a_damaged_state_the_others_go_on(four, stopped: Path) -> None:
    configs, undisturbed = four
    damaged(Unfinished(jobs_in(stopped, configs)[0]).path)
    train(jobs_in(stopped, configs))
    check_same(configs, undisturbed, stopped, [None, 3, 3, 3])


def test_a_state_is_for_no_other_config_sweep_or_data(four, stopped: Path) -> None:
    (config, *_), _ = four
    own = Unfinished(Job(0, config, stopped / "0"))
    assert own.path.is_file()
    other = config.copy()
    other.seed = 5
    others = [
        Job(0, other, stopped / "0"),
        Job(0, config, stopped / "0" / "0"),
        Job(0, config, stopped / "0", sweep={"id": "another", "folder": "0"}),
    ]
    assert not any(Unfinished(job).path.exists() for job in others)
    assert Unfinished(Job(7, config, stopped / "elsewhere")).path == own.path
