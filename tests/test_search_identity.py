"""Which results a sweep takes for its own, wherever its folder lies, and under which names."""

import json
import os
import shutil
import signal

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from simulated_sweep import LR, Left, smooth


def interrupts_at_2(config):
    if HydraConfig.get().runtime.output_dir.endswith("2"):
        signal.raise_signal(signal.SIGINT)
    return smooth(config)


def killed(sweep, *arguments, at, **named):
    """Run a sweep in a process that ends without a word in the task of trial `at`."""
    process = os.fork()
    if process == 0:

        def task(config):
            if HydraConfig.get().runtime.output_dir.endswith(at):
                os._exit(7)
            return smooth(config)

        try:
            sweep(*arguments, task=task, **named)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7


def test_every_summary_says_whose_it_is(sweep):
    def task(config):
        if HydraConfig.get().runtime.output_dir.endswith("1"):
            raise ValueError("no")
        return smooth(config)

    _, left = sweep("optimizer.lr=0.1,0.2,0.3", task=task)
    summaries = [json.loads((left.folder / str(i) / "summary.json").read_text()) for i in range(3)]
    assert [summary["sweep"]["folder"] for summary in summaries] == ["0", "1", "2"]
    (identity,) = {summary["sweep"]["id"] for summary in summaries}
    assert {trial.user_attrs["sweep"] for trial in left.study.trials} == {identity}


@pytest.mark.parametrize("leftover", ["0/summary.json", "7/config.yaml", "trials.csv", "best.yaml", "study.journal"])
def test_a_new_sweep_refuses_a_folder_with_results_of_others(leftover, sweep, tmp_path):
    left = tmp_path / "sweep" / leftover
    left.parent.mkdir(parents=True)
    left.write_text('{"status": "completed", "objective": 0.99}')
    outcome, _ = sweep("optimizer.lr=0.1,0.2", task=lambda config: pytest.fail("a job ran"))
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1
    assert f"holds results that are not this sweep's ({leftover.partition('/')[0]}): choose another" in outcome.stderr
    assert left.read_text() == '{"status": "completed", "objective": 0.99}'
    assert not (tmp_path / "sweep" / "sweep.yaml").exists()


def test_a_resumed_sweep_refuses_run_folders_of_others(sweep, train, tmp_path):
    sweep("optimizer.lr=0.1,0.2,0.3", task=interrupts_at_2)
    shutil.copytree(tmp_path / "sweep" / "0", tmp_path / "sweep" / "3")
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 2
    assert "holds run folders that are not its sweep's (3): move them elsewhere." in outcome.stderr


def test_only_a_summary_of_the_same_trial_of_the_same_sweep_counts(sweep, train, tmp_path):
    """Trial 2 was killed; in its folder a summary of trial 0 turns up, then one of another sweep."""
    killed(sweep, "optimizer.lr=0.1,0.2,0.3", at="/2")
    folder = tmp_path / "sweep"
    summary = json.loads((folder / "0" / "summary.json").read_text())
    foreign = [summary, summary | {"sweep": {"id": "another", "folder": "2"}}]
    for number, content in enumerate(foreign):
        copy = shutil.copytree(folder, tmp_path / f"copy{number}")
        (copy / "2" / "summary.json").write_text(json.dumps(content))
        assert train("-m", f"search.resume={copy.name}").exit_code == 0
        rows = Left(copy).rows
        assert [row["status"] for row in rows] == ["completed", "completed", "interrupted", "completed"]
        assert rows[3]["optimizer.lr"] == "0.3"
        assert json.loads((copy / "2" / "summary.json").read_text()) == content


def test_a_killed_sweep_goes_on_from_wherever_it_was_moved_to(sweep, train, tmp_path, monkeypatch):
    arguments = ["search=random", "search.num_trials=4", LR]
    _, whole = sweep(*arguments, folder="whole")
    killed(sweep, *arguments, "search.storage=sqlite:///a/b/c/study.db", at="/2", folder="a/b/c")
    killed(sweep, *arguments, at="/2", folder="d/e")
    (tmp_path / "renamed").mkdir()
    (tmp_path / "a").rename(tmp_path / "renamed" / "x")
    (tmp_path / "d" / "e").rename(tmp_path / "renamed" / "e")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("renamed")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder in ("../renamed/x/b/c", "../link/e"):
        outcome = train("-m", f"search.resume={folder}")
        assert outcome.exit_code == 0, outcome.stderr
        rows = Left(tmp_path / "elsewhere" / folder).rows
        assert [row["status"] for row in rows] == ["completed", "completed", "interrupted", "completed", "completed"]
        finished = [row for row in rows if row["status"] == "completed"]
        for column in ("optimizer.lr", "val_accuracy"):
            assert sorted(row[column] for row in finished) == sorted(row[column] for row in whole.rows)
        assert [row["folder"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_study_that_is_not_where_it_was_is_not_begun_anew(sweep, train, tmp_path):
    database = f"sqlite:///{tmp_path}/study.db"
    sweep("optimizer.lr=0.1,0.2,0.3", f"search.storage={database}", task=interrupts_at_2)
    (tmp_path / "study.db").rename(tmp_path / "moved.db")
    outcome = train("-m", "search.resume=sweep", "search.trust=true")
    assert outcome.exit_code == 2
    assert "is missing: bring it back" in outcome.stderr
    assert train("-m", "search.resume=sweep", f"search.storage=sqlite:///{tmp_path}/moved.db").exit_code == 0
    assert len(Left(tmp_path / "sweep").rows) == 4


def test_a_study_is_joined_by_its_name_only(sweep, tmp_path):
    storage = f"search.storage=sqlite:///{tmp_path}/s.db"
    for parent in ("a", "b"):
        outcome, left = sweep("optimizer.lr=0.1,0.2", storage, folder=f"{parent}/x/s")
        assert outcome.exit_code == 0
        assert len(left.rows) == 2
        assert len(list(left.folder.glob("[0-9]"))) == 2
    studies = optuna.get_all_study_names(f"sqlite:///{tmp_path}/s.db")
    assert len(studies) == 2
    _, joined = sweep("optimizer.lr=0.1,0.2", storage, f"search.study={studies[0]}", folder="c")
    assert len(joined.rows) == 2
    assert not list(joined.folder.glob("[0-9]"))


def test_a_study_is_not_joined_with_other_settings(sweep, tmp_path):
    shared = ["optimizer.lr=0.1,0.2", f"search.storage=sqlite:///{tmp_path}/s.db", "search.study=x"]
    assert sweep(*shared, "trainer.max_epochs=2", folder="a")[0].exit_code == 0
    same, _ = sweep(*shared, "trainer.max_epochs=2", "trainer.accelerator=cpu", "num_threads=2", folder="b")
    assert same.exit_code == 0, same.stderr
    for other in ("model.num_units=7", "optimizer=sgd", "trainer.max_epochs=3", "+trainer.detect_anomaly=true"):
        outcome, _ = sweep(*shared, "trainer.max_epochs=2", other, folder="c")
        assert outcome.exit_code == 2
        assert outcome.stderr.count("\n") == 1
        assert "The study 'x' has other settings: `" in outcome.stderr


def test_interpolations_in_the_names_of_folders_are_resolved_for_each_job(sweep, tmp_path):
    names = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    _, left = sweep("optimizer.lr=0.1,0.2", names, folder="a")
    assert sorted(path.parent.name for path in left.folder.glob("*/summary.json")) == [
        "optimizer.lr=0.1",
        "optimizer.lr=0.2",
    ]
    assert [row["folder"] for row in left.rows] == ["optimizer.lr=0.1", "optimizer.lr=0.2"]
    _, left = sweep("optimizer.lr=0.1,0.2", "hydra.sweep.subdir=lr/${hydra:job.num}-${optimizer.lr}", folder="b")
    assert [row["folder"] for row in left.rows] == ["lr/0-0.1", "lr/1-0.2"]
    assert json.loads((left.folder / "lr" / "1-0.2" / "summary.json").read_text())["sweep"]["folder"] == "lr/1-0.2"
    condition = "norm.eps=tag('norm.momentum=null',choice(0.1,0.2))"  # asks about what is no text
    _, left = sweep("norm.momentum=0.5,null", condition, names, folder="d")
    assert [row["folder"] for row in left.rows] == [
        "norm.momentum=0.5",
        "norm.eps=0.1,norm.momentum=null",
        "norm.eps=0.2,norm.momentum=null",
    ]
    outcome, left = sweep("optimizer.lr=0.1,0.2", "hydra.job.name=at-${optimizer.lr}", folder="c-${now:%Y}")
    assert outcome.exit_code == 0
    assert len(list(tmp_path.glob("c-2*/1/summary.json"))) == 1


def test_numbers_as_names_of_nested_folders_outlast_an_interruption(sweep, train):
    nested = "hydra.sweep.subdir=${seed}/${optimizer.lr}"
    assert sweep("seed=1,12,2", nested, "optimizer.lr=2", task=interrupts_at_2)[0].exit_code == 130
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code != 2, outcome.stderr


def test_names_of_their_own_outlast_a_killed_sweep(sweep, train, tmp_path):
    names = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    killed(sweep, "optimizer.lr=0.1,0.2,0.3", names, at="0.2")
    assert train("-m", "search.resume=sweep").exit_code == 0
    rows = Left(tmp_path / "sweep").rows
    assert [(row["folder"], row["status"]) for row in rows] == [
        ("optimizer.lr=0.1", "completed"),
        ("optimizer.lr=0.2", "interrupted"),
        ("optimizer.lr=0.3", "completed"),
        ("optimizer.lr=0.2-3", "completed"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.sweep.subdir=same"], "is 'same' for trials that differ in `optimizer.lr`"),
        (["hydra.sweep.subdir=${optimizer.lr}", "search.seeds=2"], "is '0.1' for trials that differ in `seed`"),
        (["hydra.sweep.subdir=../${optimizer.lr}"], "must be a folder in the sweep's, but got '../0.1'"),
        (["hydra.sweep.subdir=/${optimizer.lr}"], "must be a folder in the sweep's, but got '/0.1'"),
        (["hydra.sweep.subdir=${nowhere}-${optimizer.lr}"], "Interpolation key 'nowhere' not found"),
        (["hydra.sweep.subdir=${hydra.job.override_dirname}", f"norm.eps=0.{'5' * 240}"], "longer than the 255 bytes"),
        (["hydra.sweep.subdir=trials.csv/${hydra.job.num}"], "must not be a file of the sweep's"),
        (["hydra.sweep.dir=s-${optimizer.lr}"], "is the folder of the whole sweep, but 's-${optimizer.lr}' is"),
        (["hydra.sweep.dir=s-${hydra.job.num}"], "`hydra.sweep.dir`, the folder of the whole sweep: "),
        (["hydra.sweep.dir='s-\\${x}'"], "must not have ${ in its path"),
    ],
)
def test_folders_that_would_mix_runs_are_refused_before_any_job(arguments, message, sweep, tmp_path):
    outcome, _ = sweep("optimizer.lr=0.1,0.2", *arguments, task=lambda config: pytest.fail("a job ran"))
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1
    assert message in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_edited_configs_are_named_when_a_sweep_goes_on(train, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    (conf / "optimizer").mkdir(parents=True)
    (conf / "scheduler").mkdir()
    (conf / "search" / "space").mkdir(parents=True)
    files = {
        conf / "optimizer" / "mine.yaml": "_target_: torch.optim.SGD\nlr: 0.1\nmomentum: 0.5\n",
        conf / "search" / "space" / "mine.yaml": "# @package search.space\nseed: choice(1, 2, 3)\n",
        conf / "scheduler" / "own.yaml": "_target_: torch.optim.lr_scheduler.StepLR\nstep_size: 7\n",
        conf / "my.yaml": "defaults: [train, _self_]\nmodel: {num_units: 5}\n",
    }
    for file, text in files.items():
        file.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnlab.train.task", interrupts_at_2)
    flags = ["--config-dir", "conf", "-cn", "my", "-m", "hydra.sweep.dir=sweep"]
    where_mine = "scheduler=tag('optimizer=mine',choice(constant,own))"
    outcome = train(*flags, "optimizer=adam,mine", where_mine, "search/space=mine")
    assert outcome.exit_code == 130, outcome.stderr
    edits = [
        ("momentum: 0.5", "momentum: 0.9", "`optimizer.momentum` with optimizer=mine was 0.5, is 0.9"),
        ("lr: 0.1\n", "", "`optimizer.lr` with optimizer=mine was 0.1, is not there"),
        ("step_size: 7", "step_size: 8", "with optimizer=mine scheduler=own was 7, is 8"),
        ("num_units: 5", "num_units: 6", "`model.num_units` was 5, is 6"),
        ("choice(1, 2, 3)", "choice(4, 5)", '`search.space.seed` was "choice(1, 2, 3)", is "choice(4, 5)"'),
    ]
    for old, new, message in edits:
        (file,) = (file for file, text in files.items() if old in text)
        file.write_text(files[file].replace(old, new))
        outcome = train("-m", "search.resume=sweep", "search.trust=true")
        file.write_text(files[file])
        assert outcome.exit_code == 2
        assert outcome.stderr.count("\n") == 1
        assert message in outcome.stderr
    monkeypatch.setattr("bnlab.train.task", smooth)
    assert train("-m", "search.resume=sweep", "search.trust=true", "search.batch_size=2").exit_code == 0
    assert [row["status"] for row in Left(tmp_path / "sweep").rows].count("completed") == 9


@pytest.mark.parametrize("is_done", [False, True])
def test_a_sweep_goes_on_from_a_journal_whose_end_a_power_cut_took(sweep, train, tmp_path, is_done):
    """The lines that say that trial 2 began, and that it ended, are gone; its folder is there."""
    killed(sweep, "optimizer.lr=0.1,0.2,0.3,0.4", "search.batch_size=1", at="/3" if is_done else "/2")
    journal = tmp_path / "sweep" / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    third = [number for number, line in enumerate(lines) if b'"user_attr":{"sweep":' in line][2]
    journal.write_bytes(b"".join(lines[: third - 1]) + lines[third - 1][:20])
    before = (tmp_path / "sweep" / "2" / "summary.json").read_bytes() if is_done else None
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    rows = Left(tmp_path / "sweep").rows
    assert sorted(row["optimizer.lr"] for row in rows if row["status"] == "completed") == ["0.1", "0.2", "0.3", "0.4"]
    assert not is_done or (tmp_path / "sweep" / "2" / "summary.json").read_bytes() == before
