"""`resume=FOLDER`: a run that stopped continues bit for bit as if it had never stopped."""

import csv
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny import Asked, tiny

import bnlab
from bnlab.engines.fit import fit
from bnlab.engines.repetition import repeat
from bnlab.engines.resuming import resume
from bnlab.errors import UserError
from bnlab.runs.folder import RunFolder
from bnlab.text.command_line import override
from bnlab.training.interrupt import InterruptRequest

QUIET = Console(quiet=True)
ENGINES = ("trainer=default", "trainer=quick")
STOP = "lightning.pytorch.callbacks.EarlyStopping"
PLATEAU = "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau ~scheduler.T_max ~scheduler.eta_min"
SETTINGS = [
    "optimizer=sgd optimizer.lr=0.05",
    "optimizer=momentum optimizer.lr=0.01 scheduler=step scheduler.step_size=2",
    "optimizer=nesterov optimizer.lr=0.01 norm=torch norm.placement=after scheduler=exponential",
    "optimizer=rmsprop scheduler=inverse_time norm.momentum=null",
    "optimizer=adam scheduler=constant norm=none",
    "optimizer=adamw norm=ghost norm.virtual_batch_size=8",
    "optimizer=adam norm=renorm norm.ramp_start=2 norm.ramp_end=20",
    f"optimizer=sgd optimizer.lr=0.5 {PLATEAU} +scheduler.patience=0 +scheduler.threshold=0.5",
    "data.batch_size=full optimizer=sgd optimizer.lr=0.5",
    "trainer.precision=64-true optimizer=momentum optimizer.lr=0.05",
    f"+callbacks.stop._target_={STOP} +callbacks.stop.monitor=train_loss +callbacks.stop.patience=3 "
    "+callbacks.stop.mode=max",
]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def results_of(folder: Path) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text())
    of_the_clock = ("seconds", "samples_per_second", "command", "branch", "git")
    return {name: value for name, value in summary.items() if name not in of_the_clock}


def state_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    moments = {f"{number}.{key}": value for number, each in optimizer["state"].items() for key, value in each.items()}
    return {**checkpoint["state_dict"], **moments, "step": torch.tensor(checkpoint["global_step"])}


def assert_same(folder: Path, other: Path) -> None:
    assert rows_of(folder) == rows_of(other)
    assert results_of(folder) == results_of(other)
    for name in ("best", "last"):
        ours, theirs = state_of(folder, name), state_of(other, name)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=0, msg=f"{name}: {key}")


def train_until(
    epoch: int, config, folder: Path, monkeypatch: pytest.MonkeyPatch, *, amid_writing: bool = False
) -> None:
    """Leave what a training leaves that is killed after this epoch, or after it has written the next row of metrics."""
    before = folder.with_name("before")
    write = RunFolder.write_metrics

    def copying(run: RunFolder, rows) -> None:
        if amid_writing:
            write(run, rows)
        if len(rows) == epoch + 1 and not before.exists():
            shutil.copytree(run.path, before)
        write(run, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_metrics", copying)
        if config.trainer._target_.startswith("bnlab"):  # stacks write now and then
            patch.setattr("bnlab.stacked.pace.Pace.is_due", lambda *_: True)
        fit(config, folder, console=QUIET)
    shutil.rmtree(folder)
    before.rename(folder)


def short(engine: str, *overrides: str, epochs: int = 6):
    config = tiny(engine, *overrides)
    config.trainer.max_epochs = epochs
    return config


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_killed_run_continues_as_if_nothing_had_happened(
    settings: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = settings.split()
    fit(short(engine, *overrides), tmp_path / "whole", console=QUIET)
    train_until(2, short(engine, *overrides), tmp_path / "run", monkeypatch)
    assert not (tmp_path / "run/summary.json").exists()
    assert len(rows_of(tmp_path / "run")) == 2
    resume(tmp_path / "run", trust=True, console=QUIET)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_run_that_is_killed_between_its_row_and_its_checkpoint_continues(
    epoch: int, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(short(engine), tmp_path / "whole", console=QUIET)
    train_until(epoch, short(engine), tmp_path / "run", monkeypatch, amid_writing=True)
    assert len(rows_of(tmp_path / "run")) == epoch + 1
    assert (tmp_path / "run/checkpoints/last.ckpt").exists() == (epoch > 0)
    resume(tmp_path / "run", trust=True, console=QUIET)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings",
    ["", SETTINGS[-1], "trainer.max_steps=10"],
    ids=["at its last epoch", "by early stopping", "by its steps"],
)
def test_a_run_that_is_killed_after_its_end_is_tested(settings: str, engine: str, tmp_path: Path) -> None:
    for name in ("whole", "run"):
        fit(short(engine, *settings.split()), tmp_path / name, console=QUIET)
    assert (len(rows_of(tmp_path / "whole")) == 6) == (not settings)
    (tmp_path / "run/summary.json").unlink()
    resume(tmp_path / "run", trust=True, console=QUIET)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_continued_exactly_is_refused(engine: str, tmp_path: Path) -> None:
    lines = [engine, "model.hidden=[8]", "data.batch_size=128", "trainer.accelerator=cpu"]
    bnlab.run([*lines, "trainer.max_steps=11"], tmp_path / "cut")  # of 9 steps per epoch
    with pytest.raises(UserError, match=r"ended amid epoch 2, by trainer\.max_steps, from where it cannot continue"):
        resume(tmp_path / "cut", ["trainer.max_steps=-1", "trainer.max_epochs=3"], tmp_path / "more")
    bnlab.run([*lines, "optimizer=sgd", "optimizer.lr=1e30", "norm=none", "trainer.max_epochs=2"], tmp_path / "wild")
    with pytest.raises(UserError, match=r"diverged in epoch 1, from which it cannot continue"):
        resume(tmp_path / "wild", ["optimizer.lr=0.1"], tmp_path / "more")
    bnlab.run([*lines, "trainer.max_epochs=3"], tmp_path / "run")
    with pytest.raises(UserError, match=r"`trainer\.max_steps` must be more than 27, as the run in .* got 20"):
        resume(tmp_path / "run", ["trainer.max_epochs=5", "trainer.max_steps=20"], tmp_path / "more")
    with pytest.raises(UserError, match=r"`data\.split_seed` must stay 0 in a run that continues, but got 3"):
        resume(tmp_path / "run", ["trainer.max_epochs=4", "data.split_seed=3"], tmp_path / "more")
    (tmp_path / "cut/summary.json").unlink()
    with pytest.raises(UserError, match="ended amid epoch 2"):
        resume(tmp_path / "cut", ["trainer.max_steps=-1", "trainer.max_epochs=3"], tmp_path / "more")
    assert not (tmp_path / "more").exists()
    changes = ["trainer.max_epochs=4", "data.batch_size=64"]  # so that epochs have other numbers of steps
    resume(tmp_path / "run", changes, tmp_path / "branch", console=QUIET)
    assert resume(tmp_path / "branch", ["trainer.max_epochs=5"], tmp_path / "more", console=QUIET)["epochs"] == 5


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_run_continues_however_often_it_is_interrupted(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlab.stacked.training.LOOK_EVERY_S", -1.0)
    fit(short(engine), tmp_path / "whole", console=QUIET)
    run = tmp_path / "run"
    steps = []
    for number in (2, 3, 2, 7, 3, 2, 9):  # before the first epoch ends, amid later ones, and before another one ends
        with monkeypatch.context() as patch:
            patch.setattr(InterruptRequest, "is_requested", Asked(number))
            summary = fit(short(engine), run, console=QUIET) if not steps else resume(run, trust=True, console=QUIET)
        assert summary["status"] == "interrupted"
        assert summary["epochs"] == (len(rows_of(run)) if (run / "metrics.csv").exists() else 0)
        steps.append(summary["steps"])
        is_amid_epoch = steps[-1] > 4 * summary["epochs"] > 0  # or at its last step, before it was validated
        assert is_amid_epoch == (run / "checkpoints/epoch.ckpt").exists(), (number, summary["epochs"], steps)
    assert len(set(steps)) > 2
    resume(run, trust=True, console=QUIET)
    assert_same(run, tmp_path / "whole")
    assert not (run / "checkpoints/epoch.ckpt").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_completed_run_is_extended_in_a_folder_of_its_own(engine: str, tmp_path: Path) -> None:
    lines = ["scheduler=constant", "data.batch_size=128", "model.hidden=[8]", "trainer.accelerator=cpu", engine]
    bnlab.run([*lines, "trainer.max_epochs=2"], tmp_path / "short")
    before = {path: path.read_bytes() for path in (tmp_path / "short").rglob("*") if path.is_file()}
    bnlab.run([*lines, "trainer.max_epochs=4"], tmp_path / "whole")
    summary = resume(tmp_path / "short", ["trainer.max_epochs=4"], tmp_path / "longer", console=QUIET)
    assert_same(tmp_path / "longer", tmp_path / "whole")
    assert summary["branch"]["epoch"] == 2
    assert {path: path.read_bytes() for path in (tmp_path / "short").rglob("*") if path.is_file()} == before
    assert repeat(tmp_path / "longer", tmp_path / "again").is_same
    with pytest.raises(UserError, match=r"is completed: trainer\.max_epochs=4, for example, extends it"):
        resume(tmp_path / "short")
    with pytest.raises(UserError, match=r"must be more than 2, as the run in .* has trained so many epochs, but got 2"):
        resume(tmp_path / "short", ["trainer.max_epochs=2"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheduler", ["constant", "cosine", "step"])
def test_a_changed_rate_holds_from_the_next_epoch_on_by_the_shape_of_its_schedule(
    scheduler: str, engine: str, tmp_path: Path
) -> None:
    lines = [f"scheduler={scheduler}", "data.batch_size=128", "model.hidden=[8]", "trainer.accelerator=cpu", engine]
    bnlab.run([*lines, "optimizer=momentum", "optimizer.lr=0.1", "trainer.max_epochs=2"], tmp_path / "run")
    changes = ["optimizer.lr=0.02", "optimizer.momentum=0.5", "trainer.max_epochs=4"]
    resume(tmp_path / "run", changes, tmp_path / "branch", console=QUIET)
    bnlab.run([*lines, "optimizer=momentum", *changes], tmp_path / "from_the_start")
    rates, of_new = ([row["lr"] for row in rows_of(tmp_path / name)] for name in ("branch", "from_the_start"))
    assert rates[:2] == [row["lr"] for row in rows_of(tmp_path / "run")]
    assert rates[2:] == of_new[2:]
    (group,) = torch.load(tmp_path / "branch/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0][
        "param_groups"
    ]
    assert group["momentum"] == 0.5


def test_layers_that_draw_random_numbers_draw_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config():
        made = short("trainer=default")
        made.model = {"_target_": "tiny.with_dropout"}
        return made

    fit(config(), tmp_path / "whole", console=QUIET)
    train_until(2, config(), tmp_path / "run", monkeypatch)
    resume(tmp_path / "run", trust=True, console=QUIET)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_trial_of_a_stacked_sweep_is_extended_as_a_branch(tmp_path: Path) -> None:
    lines = ["scheduler=constant", "model.hidden=[8]", "data.batch_size=128", "trainer.accelerator=cpu"]
    swept = [
        *lines,
        "trainer.max_epochs=2",
        "optimizer.lr=0.1,0.01",
        "hydra/launcher=stacked",
        "hydra.launcher.n_jobs=1",
    ]
    bnlab.sweep(swept, tmp_path / "sweep")
    trial = tmp_path / "sweep/1"
    before = {path: path.read_bytes() for path in trial.rglob("*") if path.is_file()}
    changes = ["trainer=quick", "trainer.max_epochs=4"]
    summary = resume(trial, changes, tmp_path / "branch", console=QUIET)
    assert {path: path.read_bytes() for path in trial.rglob("*") if path.is_file()} == before
    assert "sweep" not in summary
    bnlab.run([*lines, "trainer=quick", "optimizer.lr=0.01", "trainer.max_epochs=4"], tmp_path / "alone")
    assert_same(tmp_path / "branch", tmp_path / "alone")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICKLY = ("trainer=quick", "model.hidden=[8]", "data.batch_size=128")


def test_the_command_continues_says_so_and_logs(train: Callable, in_folder: Path) -> None:
    assert train(*QUICKLY, "trainer.max_epochs=2", "hydra.run.dir=run").exit_code == 0
    outcome = train("resume=run", "trainer.max_epochs=3", "hydra.run.dir=more")
    assert outcome.exit_code == 0, outcome.stderr
    first = outcome.stdout.splitlines()[0]
    assert first == "Continuing the run in run after epoch 2 of 3; the branch goes to more; loading torch ..."
    assert "epoch 3: " in Path("more/train.log").read_text()
    assert len(rows_of(in_folder / "more")) == 3
    summary = json.loads(Path("more/summary.json").read_text())
    shutil.rmtree("more")
    words = summary["command"].split()
    assert words[:3] == ["python", "-m", "bnlab.train"]
    assert train(*words[3:], "hydra.run.dir=again").exit_code == 0
    assert json.loads(Path("again/summary.json").read_text())["val_loss"] == summary["val_loss"]


MISTAKES = {
    ("resume=nowhere",): "'nowhere' is not the folder of a run: it has no config.yaml.",
    ("resume=run", "-m"): "resume=FOLDER continues one run: leave -m out. search.resume=FOLDER resumes a sweep.",
    ("resume=run", "search.num_trials=3"): "search.num_trials=3 is for a sweep, and this is a single run: add -m.",
    ("resume=run", "optimizer.lrr=1"): "optimizer.lr=1",
    ("resume=run", "optimizer.lr=-1"): "`optimizer.lr` must be",
    ("resume=run", "trainer.max_epochs=3", "model.hidden=[9]"): "cannot be resumed",
    ("resume=run", "trainer.max_epochs=3", "optimizer=rmsprop"): "keep its class, and change its settings",
    ("resume=run", "trust=perhaps"): "`trust` must be true or false, but got 'perhaps'.",
    ("resume=run", "trainer.max_epochs=3", "hydra.run.dir=run"): "already holds a run",
    ("resume=run", "--config-dir", "."): "takes its configs from the run: leave --config-dir out",
    ("resume=",): "`resume` must be the name of a folder, but got ''.",
    ("resume=run", "resume=run"): "`resume` must be given once, as resume=VALUE.",
    ("~resume",): "`resume` must be given once, as resume=VALUE.",
    ("resume=run", "hydra.run.dir=${now:%Y}"): "`hydra.run.dir` must be the name of a folder, but got '${now:%Y}'.",
    (
        "resume=run",
        "hydra.job.chdir=true",
    ): "takes no setting of Hydra but hydra.run.dir: leave hydra.job.chdir=true out",
    ("resume=run", "--cfg", "job"): "continues a run, whose settings are in its config.yaml: show that instead.",
    ("++resume=run",): "is completed: trainer.max_epochs=4, for example, extends it.",
    ("resume=sweep",): "python -m bnlab.train -m search.resume=FOLDER resumes it",
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("short")
    bnlab.run([*QUICKLY, "trainer.max_epochs=2"], place / "run")
    (place / "sweep").mkdir()
    (place / "sweep/sweep.yaml").touch()
    return place


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_the_run_unharmed(
    arguments: tuple[str, ...], engine: str, short_run: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(short_run)
    before = {path: path.read_bytes() for path in short_run.rglob("*") if path.is_file()}
    extra = [engine] if arguments[-1].startswith(("model.hidden", "optimizer=")) else []
    outcome = train(*arguments, *extra)
    assert outcome.exit_code == 2, outcome.stdout
    assert MISTAKES[arguments] in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in short_run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["b sp", "c [d] é", "c$x", "17", "1e3"])
def test_the_command_of_a_branch_can_be_typed_whatever_its_folders_are_called(
    name: str, train: Callable, in_folder: Path
) -> None:
    bnlab.run([*QUICKLY, "trainer.max_epochs=2"], name)
    written = override("hydra.run.dir", "more [1]")
    assert train(f"resume={name}", "trainer.max_epochs=3", written).exit_code == 0
    summary = json.loads(Path("more [1]/summary.json").read_text())
    outcome = train(*shlex.split(summary["command"])[3:], "hydra.run.dir=again")
    assert outcome.exit_code == 0, outcome.stderr
    assert rows_of(in_folder / "again") == rows_of(in_folder / "more [1]")


def test_help_is_shown_whatever_is_resumed(train: Callable, in_folder: Path) -> None:
    assert "resume=FOLDER" in train("resume=run", "--help").stdout


def test_a_strangers_run_needs_trust(train: Callable, in_folder: Path) -> None:
    assert train(*QUICKLY, "trainer.max_epochs=2", "hydra.run.dir=run").exit_code == 0
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("torch.optim.Adam", "os.system"))
    outcome = train("resume=run", "trainer.max_epochs=3")
    assert outcome.exit_code == 2
    assert "asks for 'os.system' in `optimizer`" in outcome.stderr
    assert "trust=true" in outcome.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_files_are_named_in_one_line(engine: str, tmp_path: Path) -> None:
    lines = [engine, "model.hidden=[8]", "data.batch_size=128", "trainer.accelerator=cpu", "trainer.max_epochs=2"]
    bnlab.run(lines, tmp_path / "run")
    for file, content, told in (
        ("checkpoints/last.ckpt", b"half", "last.ckpt: it is damaged"),
        ("metrics.csv", b"epoch,step\n1", "metrics.csv: its end is missing"),
        ("checkpoints/last.ckpt", None, "has no checkpoint that fits its metrics.csv"),
    ):
        path = tmp_path / "run" / file
        whole = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=told):
            resume(tmp_path / "run", ["trainer.max_epochs=4"], tmp_path / "more", console=QUIET)
        path.write_bytes(whole)
    resume(tmp_path / "run", ["trainer.max_epochs=4"], tmp_path / "longer", console=QUIET)


def kill_after(seconds: float, run: Path, *arguments: str) -> bool:
    """Start a command, and kill its process group after so many seconds; return whether it had ended by then."""
    words = [sys.executable, "-m", "bnlab.train", *arguments]
    errors = run.with_name("errors.txt")
    with open(os.devnull, "w") as nothing, errors.open("w") as file:
        process = subprocess.Popen(words, stdout=nothing, stderr=file, cwd=run.parent, start_new_session=True)
    try:
        assert process.wait(seconds) == 0, errors.read_text()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        *zip(ENGINES, (1, 3), strict=True),
        *(pytest.param(engine, 20, marks=pytest.mark.slow) for engine in ENGINES),
    ],
)
def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_is_not(
    engine: str, number: int, tmp_path: Path
) -> None:
    epochs = {"trainer=default": 60, "trainer=quick": 1200}[engine]  # quick writes what is long enough now and then
    lines = [engine, f"trainer.max_epochs={epochs}", "trainer.accelerator=cpu", "optimizer=rmsprop"]
    bnlab.run(lines, tmp_path / "whole")
    start = time.monotonic()
    assert kill_after(300, tmp_path / "timed", *lines, "hydra.run.dir=timed")
    longest = time.monotonic() - start
    moments = random.Random(number)
    kills = num_amid = 0
    for run in (tmp_path / f"run{attempt}" for attempt in range(number)):
        has_ended = False
        while not has_ended:
            new = [*lines, f"hydra.run.dir={run.name}"]
            arguments = [f"resume={run.name}"] if (run / "config.yaml").exists() else new
            has_ended = kill_after(moments.uniform(0.3, 1) * longest if kills < number else 300, run, *arguments)
            kills += not has_ended
            has_ended |= (run / "summary.json").exists()  # killed after its last file, on the way out
            num_amid += not has_ended and (run / "metrics.csv").exists()
        assert_same(run, tmp_path / "whole")
        if kills == number:
            break
    assert kills == number
    assert number < 20 or num_amid >= 5  # the others came before the first epoch was written
