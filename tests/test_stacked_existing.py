"""Folders that hold a run already: no refusal and no failure writes over one."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from stacked_oracle import configs_of

from bnlab.config.settings import plain
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.stacked import train as train_stacked
from bnlab.stacked.job import Job
from bnlab.stacked.processes.chunks import Chunks
from bnlab.stacked.processes.existing import Replacement
from bnlab.stacked.processes.worker import train_alone, train_chunk
from bnlab.stacked.trial import StackedTrial

QUICK = ["trainer.max_epochs=2", "trainer.accelerator=cpu", "model.hidden=[10]"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def summary_in(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def configs():
    return configs_of(QUICK, [{"optimizer.lr": lr} for lr in (1e-5, 0.01, 0.1)])


def test_training_again_keeps_or_replaces_runs_as_it_is_told(tmp_path: Path, configs) -> None:
    first = train_stacked(configs[:2], tmp_path, num_workers=1)
    before = contents(tmp_path)
    for arguments, message in (
        ({}, r"/0' already holds a run: exist='skip' keeps .*, exist='overwrite' replaces"),
        ({"exist": "nonsense"}, r"`exist` must be 'error', 'skip' or 'overwrite', but got 'nonsense'"),
        ({"exist": None}, "but got null"),
    ):
        with pytest.raises(UserError, match=message):
            train_stacked(configs[:2], tmp_path, num_workers=1, **arguments)
    with pytest.raises(
        UserError, match=r"/0' holds a run of another config, whose optimizer\.lr is 1e-05 and not 0\.1"
    ):
        train_stacked([configs[2], configs[1]], tmp_path, num_workers=1, exist="skip")
    assert train_stacked(configs[:2], tmp_path, num_workers=1, exist="skip") == first  # and starts no process
    assert contents(tmp_path) == before

    failed = {"status": "failed", "error": "of yesterday"}
    (tmp_path / "1/summary.json").write_text(json.dumps(failed))
    again = train_stacked(configs, tmp_path, num_workers=1, exist="skip")
    assert [summary["status"] for summary in again] == ["completed"] * 3
    assert again[0] == first[0]
    measured = {"seconds", "samples_per_second"}
    assert {key: again[1][key] for key in first[1].keys() - measured} == {
        key: first[1][key] for key in first[1].keys() - measured
    }
    assert contents(tmp_path / "0") == {name[2:]: file for name, file in before.items() if name.startswith("0/")}
    assert [summary_in(tmp_path / str(number)) for number in range(3)] == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]

    before = contents(tmp_path)
    wrong, other, impossible = configs_of(QUICK, [{"optimizer.lr": -1}, {"seed": 5}, {"data.batch_size": 5000}])
    (tmp_path / ".1.new").mkdir()  # of a process that was killed
    summaries = train_stacked([wrong, other, impossible], tmp_path, num_workers=1, exist="overwrite")
    assert [summary["status"] for summary in summaries] == ["failed", "completed", "failed"]
    assert summary_in(tmp_path / "1") == summaries[1]
    assert OmegaConf.load(tmp_path / "1/config.yaml").seed == 5
    after = contents(tmp_path)
    for name in before:
        assert name.startswith("1/") or after[name] == before[name], name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_stack_keeps_others_out_of_its_folder(tmp_path: Path, configs) -> None:
    refusals = []

    def again(_: object) -> None:
        with pytest.raises(UserError, match=r"A stack is still being trained in .*: choose another folder, or wait"):
            train_stacked(configs[2:], tmp_path, num_workers=1, exist="overwrite")
        refusals.append(contents(tmp_path))

    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "metrics.csv").write_text("of a run that was moved")
    (tmp_path / "0").symlink_to(elsewhere)
    summaries = train_stacked(configs[:2], tmp_path, num_workers=1, exist="overwrite", report=again)
    assert refusals
    assert [summary["status"] for summary in summaries] == ["completed"] * 2
    assert [summary_in(tmp_path / str(number)) for number in range(2)] == summaries
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "elsewhere"]
    assert (elsewhere / "metrics.csv").read_text() == "of a run that was moved"


def test_a_job_whose_folder_is_taken_is_refused_before_any_process_sees_it(tmp_path: Path, configs) -> None:
    for name, file in (("a", "summary.json"), ("b", "metrics.csv"), ("c", "checkpoints/best.ckpt")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_text("{}")
    config = plain(configs[0])
    jobs = [Job(number, config, tmp_path / name) for number, name in enumerate("abcdde")]
    chunks = Chunks(iter(jobs), lambda config: 8)
    while chunks.is_composing:
        chunks.compose(8)
    assert [job.number for chunk in chunks.waiting for job in chunk.jobs] == [3, 5]
    errors = {refusal.job.number: refusal.error for refusal in chunks.refused}
    assert sorted(errors) == [0, 1, 2, 4]
    assert "already holds a run" in errors[2]
    assert "is the folder of another job, too" in errors[4]
    assert not any(refusal.has_folder for refusal in chunks.refused)


def test_no_way_of_training_writes_over_a_run(tmp_path: Path, configs, train) -> None:
    fit(configs[1], tmp_path / "run", console=Console(quiet=True))
    before = contents(tmp_path)
    job = Job(0, configs[1], tmp_path / "run")
    ((_, of_stack),) = train_chunk([job], lambda epoch, num_networks: None)
    alone = train_alone(job, "for a reason")
    for summary in (of_stack, alone):
        assert summary["status"] == "failed"
        assert "already holds a run" in summary["error"]
    assert StackedTrial(job).fail(ValueError("something else"))["error"] == "something else"
    with pytest.raises(UserError, match="already holds a run"):
        fit(configs[1], tmp_path / "run", console=Console(quiet=True))
    outcome = train(f"hydra.run.dir={tmp_path}/run", *QUICK)
    assert outcome.exit_code == 2
    assert "already holds a run" in outcome.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("old", "new", "is_replaced"),
    [
        ("completed", "completed", True),
        ("completed", "failed", False),
        ("interrupted", "failed", False),
        ("interrupted", "interrupted", False),
        ("interrupted", "diverged", True),
        ("failed", "failed", True),
        (None, "failed", False),
    ],
)
def test_a_run_is_replaced_by_one_that_has_results(old, new, is_replaced, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/metrics.csv").write_text("old")
    if old is not None:
        (tmp_path / "7/summary.json").write_text(json.dumps({"status": old}))
    replacement = Replacement(tmp_path / "7")
    replacement.folder.mkdir()
    (replacement.folder / "metrics.csv").write_text("new")
    replacement.end({"status": new})
    assert (tmp_path / "7/metrics.csv").read_text() == ("new" if is_replaced else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
