"""Stacked sweeps from the command line and from Python: folders, failures, killed workers, networks that leave."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from stacked_oracle import configs_of, stacked

import bnlab
from bnlab.engines.fit import fit
from bnlab.evaluate import evaluate
from bnlab.stacked import train as train_stacked
from bnlab.stacked.grouping import group_key, why_alone
from bnlab.stacked.job import Job
from bnlab.stacked.processes.chunks import Chunks
from bnlab.stacked.processes.memory import bytes_per_network, chunk_size
from bnlab.stacked.processes.pool import Pool
from bnlab.stacked.trial import StackedTrial
from bnlab.training.lightning.fit import build_data, build_learner
from bnlab.training.optimizer import build_optimizer

QUICK = ["trainer.max_epochs=3", "trainer.accelerator=cpu", "model.hidden=[20,20]"]
FILES = {
    *("config.yaml", "overrides.yaml", "metrics.csv", "summary.json", "curves.png", "train.log"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """Six networks in two stacks, of which the third diverges; and the same, one by one, by Lightning."""
    rates = [0.01, 0.05, 1e6, 0.1, 0.02, 0.2]
    each = [{"seed": seed, "optimizer.lr": lr} for seed, lr in enumerate(rates)]
    configs = configs_of([*QUICK, "optimizer=momentum", "norm=none"], each)
    folder = tmp_path_factory.mktemp("stacked")
    alone = [fit(config, folder / "alone" / str(n), console=Console(quiet=True)) for n, config in enumerate(configs)]
    summaries = train_stacked(configs, folder / "stack", num_workers=2)
    return folder, configs, alone, summaries


def test_a_stacked_run_leaves_the_folder_of_a_single_run(trained) -> None:
    folder, configs, alone, summaries = trained
    for number, (config, expected, summary) in enumerate(zip(configs, alone, summaries, strict=True)):
        run = folder / "stack" / str(number)
        diverged = number == 2
        assert summary["status"] == expected["status"] == ("diverged" if diverged else "completed")
        assert files_of(run) == FILES - ({"checkpoints/best.ckpt"} if diverged else set())
        assert json.loads((run / "summary.json").read_text()) == summary | {"train_loss": summary["train_loss"]}
        assert OmegaConf.load(run / "config.yaml") == OmegaConf.to_container(
            OmegaConf.masked_copy(config, [key for key in config if key != "search"]), resolve=True
        )
        assert set(summary) == set(expected)
        measured = {"seconds", "samples_per_second", "git"}  # files may be changed between the two
        for key in set(expected) - measured:
            assert summary[key] == (
                pytest.approx(expected[key], rel=1e-5) if isinstance(expected[key], float) else expected[key]
            ), key
        rows, expected_rows = (
            [line.split(",") for line in (folder / way / str(number) / "metrics.csv").read_text().splitlines()]
            for way in ("stack", "alone")
        )
        assert rows[0] == expected_rows[0]
        assert len(rows) == len(expected_rows)


def test_a_stacked_run_is_read_back_and_evaluated_like_any_other(trained) -> None:
    folder, _, _, summaries = trained
    for number in (0, 4):
        run = bnlab.load(folder / "stack" / str(number))
        assert run.summary == summaries[number]
        metrics = evaluate(folder / "stack" / str(number))
        assert metrics["test_accuracy"] == summaries[number]["test_accuracy"]
        assert metrics["test_loss"] == pytest.approx(summaries[number]["test_loss"], rel=1e-5)


def test_checkpoints_hold_what_lightning_saves(trained) -> None:
    folder, *_ = trained
    for name in ("best", "last"):
        stacked, alone = (
            torch.load(folder / way / "1" / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for way in ("stack", "alone")
        )
        assert set(stacked) == set(alone)
        assert stacked["epoch"] == alone["epoch"]
        assert stacked["global_step"] == alone["global_step"]
        assert stacked["loops"]["fit_loop"] == alone["loops"]["fit_loop"]
        assert stacked["lr_schedulers"] == alone["lr_schedulers"]
        assert stacked["optimizer_states"][0]["param_groups"] == alone["optimizer_states"][0]["param_groups"]
        for key in ("state_dict", "DataModule"):
            assert list(stacked[key]) == list(alone[key])
            for own, expected in zip(stacked[key].values(), alone[key].values(), strict=True):
                torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)
        for number, state in alone["optimizer_states"][0]["state"].items():
            for own, expected in zip(
                stacked["optimizer_states"][0]["state"][number].values(), state.values(), strict=True
            ):
                torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_lightning_goes_on_from_what_a_stack_saved(tmp_path: Path) -> None:
    def trained(num_epochs: int) -> StackedTrial:
        settings = ["scheduler=constant", "model.hidden=[20]", f"trainer.max_epochs={num_epochs}"]
        (trial,) = stacked(configs_of(settings, [{}]), tmp_path / str(num_epochs))
        trial.write_results()
        trial.close()
        return trial

    first, whole = trained(1), trained(3)
    data = build_data(whole.config)
    learner = build_learner(
        whole.config, whole.build(whole.data), data, partial(build_optimizer, whole.config.optimizer)
    )
    nothing_else = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", **nothing_else)
    trainer.fit(learner, data, ckpt_path=first.run.last_checkpoint)
    assert (trainer.current_epoch, trainer.global_step) == (3, whole.steps)
    for name, value in whole.last.network().items():
        torch.testing.assert_close(learner.network.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_what_cannot_work_fails_alone_and_says_why(tmp_path: Path) -> None:
    configs = configs_of(QUICK, [{}, {"data.batch_size": 5000}, {"optimizer.lr": -1}, {"seed": 7}])
    summaries = train_stacked(configs, tmp_path, num_workers=1)
    assert [summary["status"] for summary in summaries] == ["completed", "failed", "failed", "completed"]
    assert "5000" in summaries[1]["error"]
    assert "optimizer.lr" in summaries[2]["error"]
    assert json.loads((tmp_path / "1" / "summary.json").read_text())["error"] == summaries[1]["error"]


def test_a_sweep_from_the_command_line_and_a_job_that_fits_no_stack(train, tmp_path: Path) -> None:
    """Two batch sizes are two stacks; a logger of Lightning's is for Lightning's trainer."""
    outcome = train(
        *("-m", "hydra/launcher=stacked", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}/sweep", *QUICK),
        *("optimizer.lr=0.01,0.02", "data.batch_size=64,full", "logger=csv,tensorboard"),
    )
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    for number in range(8):
        summary = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        assert summary["status"] == "completed"
        assert files_of(tmp_path / "sweep" / str(number)) >= FILES
        log = (tmp_path / "sweep" / str(number) / "train.log").read_text()
        assert ("trained alone, not in a stack: logger" in log) == (number % 2 == 1)
        assert "optimizer.lr" in (tmp_path / "sweep" / str(number) / "overrides.yaml").read_text()
    assert "8/8 done" in outcome.stdout


def test_pruned_networks_leave_the_stack(train, tmp_path: Path) -> None:
    num_epochs = 80  # long enough for the study to hear of the first sixteen while the other four train
    outcome = train(
        *("-m", "hydra/launcher=stacked", "hydra.launcher.n_jobs=1", f"hydra.sweep.dir={tmp_path}/sweep"),
        *("model.hidden=[20]", f"trainer.max_epochs={num_epochs}", "search/pruner=median", "trainer.accelerator=cpu"),
        f"optimizer.lr={','.join(f'{0.01 + number / 1000:g}' for number in range(18))},1e-8,2e-8",
    )
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    statuses = []
    for number in range(20):  # sixteen together, of which none is pruned for want of a median, and then four
        summary = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        statuses.append(summary["status"])
        assert (summary["epochs"] < num_epochs) == (summary["status"] == "pruned")
        assert files_of(tmp_path / "sweep" / str(number)) == FILES
    assert statuses[:16] == ["completed"] * 16
    assert "search/pruner=median compares a trial with those that have completed: of the first 16" in outcome.stdout
    assert statuses[18:] == ["pruned"] * 2


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's remark on a monitored metric
def test_early_stopping_ends_a_network_where_lightning_would(tmp_path: Path) -> None:
    stopping = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_loss", "patience": 1}
    each = [{"seed": seed, "optimizer.lr": lr, "trainer.max_epochs": 12} for seed, lr in enumerate((0.3, 0.1, 1e-4))]
    configs = configs_of([*QUICK, "optimizer=sgd", "scheduler=constant"], each)
    for config in configs:
        config.callbacks = {"stop": stopping}
    summaries = train_stacked(configs, tmp_path / "stack", num_workers=1)
    for number, config in enumerate(configs):
        expected = fit(config, tmp_path / "alone" / str(number), console=Console(quiet=True))
        assert summaries[number]["epochs"] == expected["epochs"]
    assert len({summary["epochs"] for summary in summaries}) > 1


class Killer:
    """Kills a worker while it trains: the first `times` that are seen at work."""

    def __init__(self, pool: Pool, times: int) -> None:
        self.pool, self.times, self.killed = pool, times, 0

    def __call__(self, report) -> None:
        busy = [worker for worker in self.pool._workers if worker.chunk is not None and worker.epoch > 0]
        if busy and self.killed < self.times:
            os.kill(busy[0].pid, signal.SIGKILL)
            self.killed += 1
            time.sleep(0.2)


@pytest.mark.parametrize(("times", "statuses"), [(1, {"completed"}), (100, {"failed"})])
def test_the_chunk_of_a_killed_worker_is_tried_again_network_by_network(times, statuses, tmp_path: Path) -> None:
    config = OmegaConf.to_container(configs_of([*QUICK, "trainer.max_epochs=300"], [{}])[0], resolve=True)
    num_jobs = 3 if times == 1 else 2
    jobs = [Job(n, config | {"seed": n, "search": None}, tmp_path / str(n)) for n in range(num_jobs)]
    pool = Pool(1)
    summaries: dict[int, dict] = {}
    killer = Killer(pool, times)
    try:
        pool.run(Chunks(iter(jobs), lambda config: 8), summaries.__setitem__, killer)
    finally:
        pool.close()
    assert killer.killed == (1 if times == 1 else 1 + num_jobs)
    assert {summary["status"] for summary in summaries.values()} == statuses
    assert len(summaries) == num_jobs
    for n in range(num_jobs):
        summary = json.loads((tmp_path / str(n) / "summary.json").read_text())
        assert summary["status"] in statuses
        if statuses == {"failed"}:
            assert "killed" in summary["error"]


def test_ctrl_c_leaves_what_there_is_and_no_process(tmp_path: Path) -> None:
    config = OmegaConf.to_container(configs_of([*QUICK, "trainer.max_epochs=100000"], [{}])[0], resolve=True)
    jobs = [Job(n, config | {"seed": n}, tmp_path / str(n)) for n in range(4)]
    pool = Pool(2)
    pids: list[int] = []

    def interrupt(report) -> None:
        if len(report.epochs) == 2 and min(report.epochs) > 3 and not pids:
            pids.extend(worker.pid for worker in pool._workers)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    summaries: dict[int, dict] = {}
    with pytest.raises(KeyboardInterrupt):
        pool.run(Chunks(iter(jobs), lambda config: 2), summaries.__setitem__, interrupt)
    assert len(summaries) == 4
    for n in range(4):
        assert json.loads((tmp_path / str(n) / "summary.json").read_text())["status"] == "interrupted"
        assert (tmp_path / str(n) / "metrics.csv").read_text().count("\n") > 3
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_only_what_each_network_can_have_for_itself_may_differ_in_a_group() -> None:
    base, *others = configs_of(
        [*QUICK, "optimizer=momentum"],
        [
            {},
            {"seed": 3, "optimizer.lr": 1.0, "optimizer.momentum": 0.1, "norm.eps": 1e-3, "scheduler.eta_min": 0.1},
            {"model.hidden": [20, 21]},
            {"data.batch_size": 32},
            {"norm.momentum": None},
            {"trainer.max_epochs": 4},
            {"trainer.gradient_clip_val": 1.0},
        ],
    )
    keys = [group_key(OmegaConf.to_container(config, resolve=True)) for config in others]
    assert keys[0] == group_key(OmegaConf.to_container(base, resolve=True))
    assert len(set(keys)) == len(keys)


def test_a_layer_that_a_stack_does_not_know_shares_all_its_settings_with_its_neighbours() -> None:
    base, *others = configs_of([*QUICK, "norm=ghost"], [{}, {"norm.eps": 1e-3}, {"seed": 1}])
    keys = [group_key(OmegaConf.to_container(config, resolve=True)) for config in (base, *others)]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


STOP = ["+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.monitor=val_loss"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["+trainer.accumulate_grad_batches=2"], "accumulate_grad_batches"),
        (["trainer.precision=bf16-mixed"], "bf16-mixed"),
        (["trainer.accelerator=gpu"], "gpu"),
        (["trainer.devices=auto"], "trainer.devices=auto"),
        (["+trainer.min_epochs=2"], "trainer.min_epochs=2"),
        (["+trainer.limit_val_batches=1"], "trainer.limit_val_batches=1"),
        (["+trainer.num_sanity_val_steps=1"], "trainer.num_sanity_val_steps=1"),
        (["+trainer.deterministic=true"], "trainer.deterministic=True"),
        (["+trainer.no_argument_of_today=1"], "trainer.no_argument_of_today=1"),
        ([*STOP, "+callbacks.stop.check_on_train_epoch_end=false"], "callbacks.stop.check_on_train_epoch_end=False"),
        ([*STOP, "+callbacks.stop.verbose=true"], "callbacks.stop.verbose=True"),
        ([*STOP, "+callbacks.stop.patience='3'"], "callbacks.stop.patience=3"),
        ([*STOP, "+callbacks.stop.patience=null"], "callbacks.stop.patience=None"),
        ([*STOP, "+callbacks.stop.no_argument_of_today=1"], "callbacks.stop.no_argument_of_today=1"),
        ([*STOP, "+callbacks.stop.strict=false", "+callbacks.stop.min_delta=-0.1"], None),
        (["+trainer.num_nodes=1", "+trainer.limit_val_batches=1.0", "+trainer.inference_mode=true"], None),
        (["logger=tensorboard"], "TensorBoardLogger"),
        (["+callbacks.mine._target_=some.Callback"], "some.Callback"),
        ([], None),
    ],
    ids=str,
)
def test_what_only_lightning_can_do_is_known_beforehand(overrides: list[str], reason: str | None) -> None:
    found = why_alone(OmegaConf.to_container(bnlab.compose(overrides), resolve=True))
    assert found is None if reason is None else reason in str(found)


def test_chunks_fit_into_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.to_container(configs_of(QUICK, [{}])[0], resolve=True)
    need = bytes_per_network(config)
    for free, expected in ((None, 16), (10**12, 16), (need * 10, 3), (need * 2, 1)):
        monkeypatch.setattr("bnlab.stacked.processes.memory.available_memory", lambda free=free: free)
        assert chunk_size(config, num_workers=2) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.hidden=[100,100,100]"], 16),
        (["model.hidden=[100,100,100]", "data=mnist"], 4),
        (["model.hidden=[256,256,256]", "data=mnist"], 1),
        (["model.hidden=[100,100,100]", "trainer.precision=64-true"], 8),
        (["data=cifar10", "model.hidden=[2000]"], 1),
    ],
    ids=str,
)
def test_chunks_fit_into_the_cache(overrides, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnlab.stacked.processes.memory.available_memory", lambda: None)
    config = OmegaConf.to_container(bnlab.compose(overrides), resolve=True)
    assert chunk_size(config, num_workers=4) == expected


def test_a_network_that_is_too_large_fails_with_its_size_and_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bnlab.stacked.processes.memory.available_memory", lambda: 2**20)
    (summary,) = train_stacked(configs_of(QUICK, [{}]), tmp_path, num_workers=1)
    assert summary["status"] == "failed"
    assert "free memory, 1 MiB" in summary["error"]
    assert json.loads((tmp_path / "0" / "summary.json").read_text())["error"] == summary["error"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which says a process's peak memory")
def test_the_estimate_of_memory_is_not_below_what_a_network_takes(tmp_path: Path) -> None:
    """Growth of the process's memory from a stack of 1 to one of 5, in a process of its own."""
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from stacked_oracle import configs_of, stacked
from bnlab.stacked.processes.memory import bytes_per_network
overrides = ["model.hidden=[1500,1500]", "optimizer=adam", "trainer.max_epochs=1", "trainer.max_steps=3"]
configs = configs_of(overrides, [{"seed": seed} for seed in range(int(sys.argv[1]))])
stacked(configs)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # getrusage counts what came before exec
print(int(status["VmHWM"].split()[0]) * 1024, bytes_per_network(configs[0]))
"""
    peaks = []
    for number in (1, 5):
        command = [sys.executable, "-c", code, str(number), str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, estimate = map(int, done.stdout.split())
        peaks.append(peak)
    measured = (peaks[1] - peaks[0]) / 4
    assert measured <= estimate < 4 * measured


def test_data_that_end_their_process_fail_where_they_are_asked_for_and_nowhere_else(train, tmp_path: Path) -> None:
    outcome = train(
        *("-m", "hydra/launcher=stacked", "hydra.launcher.n_jobs=1", f"hydra.sweep.dir={tmp_path}/sweep"),
        *("trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[5]", "data._target_=misbehaving.data"),
        "+data.misdeed=os_exit,exit,orphan,fork,chdir,none",
    )
    assert outcome.exit_code == 1, outcome.stdout + outcome.stderr
    killed = "its worker process was killed or crashed"
    for number, expected in enumerate([killed, "SystemExit: called sys.exit(3)", killed, None, None, None]):
        summary = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        assert summary["status"] == ("failed" if expected else "completed")
        assert summary.get("error") == expected


def test_callbacks_of_hydra_are_called_as_by_the_basic_launcher(train, tmp_path: Path) -> None:
    calls = {}
    for launcher in ("basic", "joblib", "stacked"):
        file = tmp_path / f"{launcher}.txt"
        outcome = train(
            *("-m", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}/{launcher}", "trainer.max_epochs=1"),
            *("trainer.accelerator=cpu", "model.hidden=[5]", "norm=none", "data.batch_size=64,5000"),
            *("+hydra.callbacks.it._target_=misbehaving.Recorder", f"+hydra.callbacks.it.file={file}"),
            *([] if launcher == "basic" else ["hydra.launcher.n_jobs=1"]),
        )
        assert outcome.exit_code == 1, outcome.stderr
        calls[launcher] = sorted(file.read_text().splitlines())
    words = [line.split()[0] for line in calls["basic"]]
    assert words == sorted([*("start", "end", "overrides", "configs") * 2, "multirun_start", "multirun_end"])
    assert calls["joblib"] == calls["basic"]
    for line, expected in zip(calls["stacked"], calls["basic"], strict=True):
        *same, value = expected.split()
        assert line.split()[:-1] == same
        assert line.split()[-1] == value or float(line.split()[-1]) == pytest.approx(float(value), rel=1e-5)
