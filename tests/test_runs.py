"""A run's folder: who may write it, what survives there, and reading one that is damaged."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from forked import at_once, killed, started, wait_until
from rich.console import Console
from tiny import tiny

import bnlab
from bnlab.config.settings import plain
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.io.log_file import LogFile
from bnlab.runs.folder import RunFolder
from bnlab.stacked.job import Job
from bnlab.stacked.processes.existing import stored_summary
from bnlab.stacked.processes.worker import train_alone, train_chunk

QUIET = Console(quiet=True)


def one_line_of(function: Callable[..., object], *arguments: object, **named: object) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class AtEpoch(L.Callback):
    """Calls `function` at the end of the training batches of an epoch, counted from 1, before anything is saved."""

    def __init__(self, epoch: int, function: Callable[[], object]) -> None:
        self._epoch, self._function = epoch, function

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 == self._epoch:
            self._function()


def test_of_runs_that_begin_in_one_folder_at_once_one_trains_and_no_other_writes(tmp_path: Path) -> None:
    def train(seed: int) -> dict:
        return fit(tiny(f"seed={seed}", "num_threads=1"), tmp_path / "run", console=QUIET)

    outcomes = at_once(train, 3)
    (summary,) = (outcome for outcome in outcomes if isinstance(outcome, dict))
    refused = [outcome for outcome in outcomes if not isinstance(outcome, dict)]
    assert all(isinstance(error, UserError) for error in refused), refused
    assert all("still under way" in str(error) or "already holds a run" in str(error) for error in refused)
    run = bnlab.load(tmp_path / "run", trust=True)
    assert run.summary == summary
    assert run.config.seed == summary["seed"]
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_run_that_is_under_way_is_left_alone_by_every_way_of_training(train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = RunFolder(folder)
    with first.locked():
        first.create(tiny(), [])
        before = content(folder)
        assert "still under way" in one_line_of(fit, tiny(), folder, console=QUIET)
        outcome = train(f"hydra.run.dir={folder}", "trainer.accelerator=cpu")
        assert outcome.exit_code == 2
        assert outcome.stderr.count("\n") == 1
        assert "still under way" in outcome.stderr
        job = Job(0, tiny("seed=1"), folder)
        for summary in (train_alone(job, "it says so"), dict(train_chunk([job], lambda *_: None))[0]):
            assert summary["status"] == "failed"
            assert "still under way" in summary["error"]
        assert content(folder) | {"train.log": b""} == before | {"train.log": b""}
        assert content(folder).get("train.log", b"") == b""
        first.write_metrics([{"epoch": 1, "step": 1}])  # now that there are results, they are not to be replaced
        with pytest.raises(UserError, match="still under way"):
            bnlab.stacked.train([tiny()], tmp_path_with(folder, tmp_path), exist="overwrite")


def tmp_path_with(folder: Path, tmp_path: Path) -> Path:
    """A folder of runs whose first is `folder`."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "0").symlink_to(folder)
    return tmp_path / "runs"


def test_a_killed_run_without_results_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def begin() -> None:
        run = RunFolder(folder)
        with run.locked():
            run.create(tiny(), [])
            (run.best_checkpoint.parent / ".best.ckpt.abcd1234").touch()
            (folder / "begun").touch()
            time.sleep(60)

    first = started(begin)
    wait_until((folder / "begun").exists)
    killed(first)
    assert fit(tiny(), folder, console=QUIET)["status"] == "completed"
    assert set(os.listdir(folder / "checkpoints")) == {"best.ckpt", "last.ckpt"}


def test_the_networks_of_a_stack_give_their_folders_and_descriptors_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    jobs = [Job(number, tiny(f"seed={number}"), tmp_path / str(number)) for number in range(3)]
    assert [summary["status"] for _, summary in train_chunk(jobs, lambda *_: None)] == ["completed"] * 3
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_run_whose_folder_goes_away_ends_in_one_line_and_writes_nothing_in_the_next(replaced, tmp_path) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"

    def take_away() -> None:
        folder.rename(away)
        if replaced:
            RunFolder(folder).create(tiny("seed=5"), [])

    told = one_line_of(fit, tiny(), folder, console=QUIET, callbacks=[AtEpoch(2, take_away)])
    assert "it was renamed or removed meanwhile" in told
    assert len((away / "metrics.csv").read_text().splitlines()) == 2
    if replaced:
        assert set(content(folder)) == {"config.yaml", "overrides.yaml"}
    else:
        assert not folder.exists()


def test_a_kill_while_saving_takes_no_checkpoint_even_where_temporary_files_are_on_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first sign of writing to a checkpoint, after it was written at least once."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("/dev/shm is not a file system of its own here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        for attempt in range(3):
            folder = tmp_path / str(attempt)
            config = tiny("trainer.max_epochs=9999", "model.hidden=[700,700]", "num_threads=1")
            last = folder / "checkpoints/last.ckpt"
            process = started(lambda config=config, folder=folder: fit(config, folder, console=QUIET))
            wait_until(lambda last=last: last.exists() and last.stat().st_size > 1_000_000)
            size = last.stat().st_size
            wait_until(
                lambda last=last, size=size: last.stat().st_size < size or list(last.parent.glob(".last.ckpt.*"))
            )
            killed(process)
            for name in ("best", "last"):
                assert "state_dict" in torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)


def test_a_full_temporary_folder_is_no_matter(mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = mounted("-t", "tmpfs", "-o", "size=4k", "tmpfs")
    (temporary / "full").write_bytes(bytes(4096))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert fit(tiny(), tmp_path / "run", console=QUIET)["status"] == "completed"


def test_a_log_on_a_full_disk_takes_nothing_with_it(mounted, capsys: pytest.CaptureFixture[str]) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=8k", "tmpfs")
    handler = LogFile(disk / "train.log", encoding="utf-8")
    for number in range(9000):
        handler.emit(logging.LogRecord("bnlab", logging.INFO, "", 0, f"line {number}", None, None))
    handler.close()
    assert capsys.readouterr().err == ""
    assert (disk / "train.log").read_text().startswith("line 0\nline 1\n")


def test_the_first_that_found_no_room_is_what_a_command_tells_in_one_line(mounted, train) -> None:
    """There is room for a row of metrics, not for a checkpoint, nor for the picture of the curves after it."""
    disk = mounted("-t", "tmpfs", "-o", "size=24k", "tmpfs")
    outcome = train(f"hydra.run.dir={disk}/run", "trainer.accelerator=cpu", "trainer.max_epochs=2")
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1
    assert "'checkpoints/last.ckpt' cannot be written (No space left on device)" in outcome.stderr
    summary = RunFolder(disk / "run").read_summary()
    assert summary["status"] == "failed"
    assert summary["error"] == f"[Errno 28] No space left on device: '{disk}/run/checkpoints/last.ckpt'"


@pytest.mark.parametrize("room", [0, 16], ids=["no room at all", "room for a summary"])
def test_a_full_disk_ends_a_run_in_one_line_and_keeps_what_is_there(room: int, mounted, tmp_path: Path) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    folder, kept = disk / "run", {}

    def fill() -> None:
        kept.update(content(folder))
        space = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(space.f_bavail * space.f_bsize - room * 1024))

    config = tiny("trainer.max_epochs=5", "model.hidden=[60,60]")
    told = one_line_of(fit, config, folder, console=QUIET, callbacks=[AtEpoch(3, fill)])
    assert "No space left on device" in told
    found = content(folder)
    summary = found.pop("summary.json", None)
    assert found.pop("metrics.csv").startswith(kept.pop("metrics.csv")[:-1])
    assert found == kept
    if room:
        assert summary is not None
        assert json.loads(summary)["status"] == "failed"
        assert "No space left on device" in json.loads(summary)["error"]


def test_a_full_disk_takes_only_those_networks_of_a_stack_that_find_no_room(mounted) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    jobs = [Job(number, tiny(f"seed={number}", "model.hidden=[60,60]"), disk / str(number)) for number in range(8)]
    done: dict[int, object] = {}
    with pytest.raises(OSError, match="No space left on device"):
        done.update(train_chunk(jobs, lambda *_: None))
    assert 0 < len(done) < len(jobs)
    for number, summary in done.items():
        assert bnlab.load(disk / str(number), trust=True).summary == summary


def test_a_run_that_is_said_to_have_ended_survives_a_power_cut(powered) -> None:
    disk, after_power_cut = powered
    summary = fit(tiny(), disk / "deeper" / "run", console=QUIET)
    run = bnlab.load(after_power_cut() / "deeper" / "run", trust=True)
    assert run.summary == summary
    assert (run.folder.path / "curves.png").read_bytes() == (disk / "deeper/run/curves.png").read_bytes()
    assert run.folder.last_checkpoint.read_bytes() == (disk / "deeper/run/checkpoints/last.ckpt").read_bytes()


def test_a_network_of_a_stack_that_is_said_to_have_ended_survives_a_power_cut(powered) -> None:
    disk, after_power_cut = powered
    jobs = [Job(number, tiny(f"seed={number}"), disk / str(number)) for number in range(3)]
    number, summary = next(train_chunk(jobs, lambda *_: None))
    assert bnlab.load(after_power_cut() / str(number), trust=True).summary == summary


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    overrides = ["trainer.max_epochs=3", "trainer.accelerator=cpu", "model.hidden=[5]", "data.batch_size=256"]
    fit(bnlab.compose(overrides), folder, overrides=overrides, console=QUIET)
    return folder


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


FILES = ("summary.json", "metrics.csv", "config.yaml", "overrides.yaml", "checkpoints/best.ckpt")
DAMAGES = {
    "empty": lambda data: b"",
    "a dictionary": lambda data: b"{}",
    "a list": lambda data: b"[]",
    "a list of numbers": lambda data: b"[1, 2]",
    "null": lambda data: b"null",
    "binary": lambda data: bytes(range(256)),
    "zeros": lambda data: bytes(len(data)),
    "half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-3],
    "zeros at its end": lambda data: data[:-64] + bytes(64),
    "deep": lambda data: b"[" * 100_000,
}
AS_GOOD = {("overrides.yaml", "a list"), ("overrides.yaml", "half"), ("overrides.yaml", "without its end")}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_in_one_line(name: str, damaged: Path) -> None:
    file = damaged / name
    data = file.read_bytes()
    for damage, of in DAMAGES.items():
        if (name, damage) not in AS_GOOD and (name, damage) != ("config.yaml", "without its end"):
            file.write_bytes(of(data))
            for read in (bnlab.load, evaluate):
                told = one_line_of(read, damaged)
                assert file.name in told, (damage, told)
                assert len(told) < 600, (damage, told)
    if name != "checkpoints/best.ckpt":
        os.truncate(file, 1 << 40)
        assert "has more than" in one_line_of(bnlab.load, damaged)
    file.unlink()
    for make in (lambda: None, file.mkdir):
        make()
        assert file.name in one_line_of(bnlab.load, damaged)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("summary.json", '"sample_shape"', '"shape"'),
        ("summary.json", '"num_classes": 10', '"num_classes": "10"'),
        ("summary.json", '"num_classes": 10', '"num_classes": 11'),
        ("summary.json", '"num_classes": 10', '"num_classes": -1'),
        ("summary.json", '"num_classes": 10', '"num_classes": true'),
        ("summary.json", '"epochs": 3', '"epochs": 4'),
        ("summary.json", '"epochs": 3', '"epochs": "3"'),
        ("metrics.csv", "epoch,", "time,"),
        ("metrics.csv", "\r\n1,", "\r\none,"),
        ("metrics.csv", "\r\n1,", "\r\n"),
        ("metrics.csv", "\r\n1,", '\r\n"1,'),
        ("config.yaml", "model:", "network:"),
        ("config.yaml", "  batch_size: 256", "  batch_size: [256]"),
        ("config.yaml", "  batch_size: 256\n", ""),
        ("config.yaml", "  normalize: true\n", ""),
        ("config.yaml", "  accelerator: cpu", "  accelerator: [cpu]"),
        ("config.yaml", "seed: 0", "seed: zero"),
        ("config.yaml", "  eps: ", "  epsilon: "),
        ("config.yaml", "  activation: relu", "  activation: {relu: 1}"),
        ("config.yaml", "  - 5", "  - 6"),
        ("overrides.yaml", "- trainer", "- 3\n- trainer"),
    ],
)
def test_what_is_missing_or_of_another_type_is_told_with_its_file(name, old, new, damaged: Path) -> None:
    file = damaged / name
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new, 1).encode())
    told = one_line_of(evaluate, damaged)
    assert file.name in told or "best.ckpt" in told, told


def test_a_checkpoint_with_other_content_is_told(damaged: Path) -> None:
    path = damaged / "checkpoints/best.ckpt"
    whole = torch.load(path, weights_only=True)
    weight = next(iter(whole["state_dict"]))
    for changes in (
        {"state_dict": {}},
        {"state_dict": [1]},
        {"state_dict": {weight: "text"}},
        {"state_dict": {**whole["state_dict"], weight: torch.zeros(1)}},
        {"DataModule": {}},
        {"DataModule": [1, 2]},
        {"DataModule": {"mean": 0.0, "std": 1.0}},
        {"DataModule": {name: value[:, :2] for name, value in whole["DataModule"].items()}},
    ):
        torch.save(whole | changes, path)
        assert "best.ckpt" in one_line_of(bnlab.load, damaged), changes
    for other in ([1, 2], torch.zeros(3), {}):
        torch.save(other, path)
        assert "best.ckpt" in one_line_of(bnlab.load, damaged), other


def test_a_damaged_run_that_is_to_be_kept_is_told(damaged: Path) -> None:
    run = RunFolder(damaged)
    config = plain(bnlab.load(damaged).config)
    assert stored_summary(run, config) == run.read_summary()
    for data in (b"", b"[]", b"{}", bytes(9)):
        run.summary.write_bytes(data)
        assert "summary.json" in one_line_of(stored_summary, run, config)
