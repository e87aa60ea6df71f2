"""`bnlab.run`, `bnlab.sweep` and what they give back."""

import importlib.util
import random
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

import bnlab
from bnlab.data import Split, Splits
from bnlab.evaluate import evaluate
from bnlab.runs.notebook_table import as_html, as_markdown
from bnlab.runs.sweeps import Sweep
from bnlab.search import log_uniform, log_uniform_integer, one_minus_log_uniform, uniform_integer
from bnlab.stacked.data import load_data

QUICK = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[8]"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def printed() -> StringIO:
    return StringIO()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, printed: StringIO) -> Sweep:
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("FORCE_COLOR", "1")  # as a notebook has it
        # 5000 samples are not there
        return bnlab.sweep([*QUICK, "norm=batch,none", "data.batch_size=64,5000"], folder)


def test_a_sweep_prints_lines_that_stay(swept, printed) -> None:
    assert "4/4 done" in printed.getvalue()
    assert "\x1b" not in printed.getvalue()


def test_run_does_what_the_command_does(train) -> None:
    found = bnlab.run([*QUICK, "seed=3"], "here")
    train(*QUICK, "seed=3", "hydra.run.dir=there")
    there = bnlab.load("there")
    assert found.metrics["train_loss"] == there.metrics["train_loss"]
    assert found.summary["test_accuracy"] == there.summary["test_accuracy"]
    assert found.overrides == there.overrides
    assert found.summary["command"] == there.summary["command"]


def test_a_run_without_a_folder_goes_where_the_commands_go() -> None:
    found = bnlab.run(QUICK)
    (folder,) = Path("outputs/runs").glob("*/*")
    assert found.folder.path == folder


def test_sweep_does_what_the_command_does(swept) -> None:
    assert len(swept) == 4
    assert swept.settings == ["norm", "data.batch_size"]
    assert swept.metrics["status"] == ["completed", "failed"] * 2
    assert swept.metrics["data.batch_size"] == [64, 5000] * 2
    alone = bnlab.run([*QUICK, "norm=none", "data.batch_size=64"], "alone")
    assert swept.run(2).metrics["train_loss"] == alone.metrics["train_loss"]
    assert swept.metrics["val_accuracy"][2] == alone.summary["objective"]
    best = max(value for value in swept.metrics["val_accuracy"] if value is not None)
    assert bnlab.run(swept.best, "best").summary["objective"] == best


def test_results_show_themselves_shortly_and_as_tables(swept) -> None:
    run = swept.run(0)
    assert len(repr(run)) < 200
    assert f"test accuracy {100 * run.summary['test_accuracy']:.2f} %" in repr(run)
    best = max(value for value in swept.metrics["val_accuracy"] if value is not None)
    assert repr(swept).endswith(f"4 trials, best val_accuracy {100 * best:.2f} %)")
    lines = swept.table().splitlines()
    assert len(lines) == 2 + 4
    shares = [float(line.split("|")[3].rstrip(" %")) for line in lines[2:4]]
    assert shares == sorted(shares, reverse=True)
    assert swept.table(limit=1).count("\n") == 2
    assert "<td>batch</td>" in swept._repr_html_()
    assert "<td>completed</td>" in run._repr_html_()
    assert "| test accuracy | " in run.table()


def test_the_lowest_loss_comes_first() -> None:
    metrics = {"number": [0, 1, 2, 3], "status": ["completed"] * 4, "val_loss": [0.3, 0.1, None, 0.2]}
    found = Sweep(Path("x"), "val_loss", metrics, None, best_objective=0.1, minimize=True)
    assert [line.split("|")[1].strip() for line in found.table().splitlines()[2:]] == ["1", "3", "0", "2"]
    assert repr(found) == "Sweep('x', 4 trials, best val_loss 0.1000)"


def test_a_sweep_over_seeds_is_as_good_as_its_best_mean() -> None:
    Path("sweep.yaml").write_text("id: x\n")
    Path("trials.csv").write_text(
        "number,status,val_accuracy,norm,seed,folder,error\n0,completed,0.9,batch,0,0,\n1,completed,0.5,batch,1,1,\n"
    )
    Path("best.yaml").write_text("objective: 0.7\ntrials: [0, 1]\noverrides: [norm=batch]\n")
    assert repr(bnlab.load_sweep(".")).endswith("2 trials, best val_accuracy 70.00 %)")
    Path("best.yaml").write_text("objective: [0.7]\noverrides: [norm=batch]\n")
    with pytest.raises(bnlab.UserError, match=r"best\.yaml is damaged"):
        bnlab.load_sweep(".")


def test_a_sweep_is_read_back(swept) -> None:
    again = bnlab.load_sweep(swept.folder)
    assert again == swept
    with pytest.raises(bnlab.UserError, match="has 4 trials, and none is number 6"):
        again.run(6)


def test_mistakes_are_those_of_the_commands() -> None:
    for call in (bnlab.run, bnlab.sweep):
        with pytest.raises(bnlab.UserError, match=r"did you mean optimizer\.lr=0\.1\?"):
            call(["lr=0.1"], "nothing")
        with pytest.raises(bnlab.UserError, match=r"keep it as a note, \+notes\.note=x"):
            call(["seed=1,2" if call is bnlab.sweep else "seed=1", "+note=x"], "nothing")
        with pytest.raises(bnlab.UserError, match="must be a list of texts"):
            call("optimizer.lr=0.1", "nothing")
    assert not Path("nothing").exists()


def test_a_run_and_a_sweep_do_not_share_a_folder(swept, tmp_path: Path) -> None:
    with pytest.raises(bnlab.UserError, match="already holds a sweep"):
        bnlab.run(["trainer=quick"], swept.folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/summary.json").write_text("{}")
    with pytest.raises(bnlab.UserError, match="already holds a run"):
        bnlab.sweep(["seed=1,2"], tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["summary.json"]


@pytest.mark.parametrize("damage", ["trials.csv", "sweep.yaml", "cut", "earlier", "best.yaml"])
def test_a_folder_that_is_no_sweep_is_refused(damage: str) -> None:
    Path("sweep.yaml").write_text("id: x\n")
    Path("trials.csv").write_text("number,status,val_accuracy,norm,folder,error\n0,completed,0.5,batch,0,\n")
    if damage == "cut":
        Path("trials.csv").write_text("number,status,val_accuracy,norm\n0,comp")
    elif damage == "earlier":
        Path("trials.csv").write_text("number,state,val_accuracy,norm,folder,reason\n0,completed,0.5,batch,0,\n")
    elif damage == "best.yaml":
        Path("best.yaml").write_text("overrides: 3\n")
    else:
        Path(damage).unlink()
    with pytest.raises(bnlab.UserError, match=r"damaged|not the folder of a sweep|an earlier version of bnlab"):
        bnlab.load_sweep(".")


def test_pandas_is_asked_for_where_it_is_not_there(swept) -> None:
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(bnlab.UserError, match="pip install pandas"):
            swept.to_pandas()
    else:
        frame = swept.to_pandas()
        assert list(frame.columns) == list(swept.metrics)
        assert frame["val_accuracy"].max() == max(v for v in swept.metrics["val_accuracy"] if v is not None)
        assert len(swept.run(0).to_pandas()) == 1


def test_tables_escape_what_their_format_would_read() -> None:
    assert as_markdown(["a"], [["x|y"]]).endswith("| x\\|y |")
    assert "&lt;b&gt;" in as_html(["a"], [["<b>"]])


def test_a_grid_is_even_on_its_scale_with_both_ends() -> None:
    assert log_uniform(1e-4, 1).grid(5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert [1 - value for value in one_minus_log_uniform(0.9, 0.999).grid(3)] == pytest.approx([0.1, 0.01, 0.001])
    assert uniform_integer(1, 3).grid(9) == [1, 2, 3]
    assert log_uniform_integer(16, 512).grid(2) == [16, 512]
    with pytest.raises(bnlab.UserError, match="at least 2"):
        log_uniform(1e-4, 1).grid(1)


def test_samples_are_those_that_single_draws_give() -> None:
    scale = log_uniform(1e-4, 1)
    one_by_one = random.Random(0)
    assert scale.sample(random.Random(0), 3) == [scale.sample(one_by_one) for _ in range(3)]


def test_threads_compose_one_after_another() -> None:
    """Hydra's state is that of the process: threads took it from each other, or left theirs behind."""
    from concurrent.futures import ThreadPoolExecutor

    from hydra.core.global_hydra import GlobalHydra

    with ThreadPoolExecutor(8) as pool:
        configs = list(pool.map(lambda seed: bnlab.compose([f"seed={seed}"]), range(8)))
    assert [config.seed for config in configs] == list(range(8))
    assert not GlobalHydra.instance().is_initialized()


def test_a_file_that_was_changed_is_read_again(tmp_path: Path, capsys) -> None:
    """Data are kept from run to run; in a notebook, what is in a file is not always what was in it."""
    rows = [f"{number}.5,{number % 2}\n" for number in range(40)]
    asked = [*QUICK, "trainer=quick", "data=csv", "data.path=t.csv", "data.target=y", "data.batch_size=8"]
    fingerprints = []
    for number, first in enumerate(("0.5,0\n", "0.5,0\n", "7.5,0\n")):
        file = tmp_path / "t.csv"
        if not file.exists() or first != rows[0]:
            file.write_text("".join(["x,y\n", first, *rows[1:]]))
        fingerprints.append(bnlab.run(asked, f"run{number}").summary["data_sha256"])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    for number, told in ((0, "The data are not those that the run in 'run0' was trained on.\n"), (2, "")):
        capsys.readouterr()
        evaluate(f"run{number}")
        assert capsys.readouterr().err == told


OFFSET = 0.0


def given(**settings: float) -> Splits:
    """Data of the user's own, as the first cell of a notebook has them."""
    return _splits(0)


def _splits(seed: int) -> Splits:
    generator = torch.Generator().manual_seed(seed)
    splits = [
        Split(torch.randn(number, 3, generator=generator) + OFFSET, torch.arange(number) % 2) for number in (40, 8, 8)
    ]
    return Splits(*splits, num_classes=2)


def test_a_function_of_ones_own_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell of a notebook that is run once more defines the same name anew, or changes what the function reads."""
    asked = [*QUICK, "trainer=quick", "data._target_=test_calling.given", "data.batch_size=8"]
    fingerprints = [bnlab.run(asked, "first").summary["data_sha256"], bnlab.run(asked, "same").summary["data_sha256"]]
    monkeypatch.setattr("test_calling.OFFSET", 1.0)
    fingerprints.append(bnlab.run(asked, "moved").summary["data_sha256"])
    config = bnlab.compose(asked)
    kept = load_data(config)
    assert load_data(config) is kept
    monkeypatch.setattr("test_calling.given", lambda **settings: _splits(1))
    assert load_data(config).fingerprint != kept.fingerprint  # in a stack, which keeps what it has for the next
    fingerprints.append(bnlab.run(asked, "redefined").summary["data_sha256"])
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3
