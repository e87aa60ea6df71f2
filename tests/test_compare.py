"""`python -m bnlab.compare`: what its picture and its files show, and what it says to mistakes."""

import io
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from recorded import record
from rich.console import Console

from bnlab.compare import main
from bnlab.comparison.arms import Arm, Result
from bnlab.comparison.comparison import compare
from bnlab.comparison.screen import on_screen
from bnlab.comparison.settings import Settings
from bnlab.comparison.table import make_table
from bnlab.figures import DPI, Series
from bnlab.figures import compare as draw
from bnlab.figures.palette import COLOURS, MOST_LINES
from bnlab.search.study.folder import SweepFolder
from bnlab.status import Status


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command_of: Callable) -> Callable:
    monkeypatch.chdir(tmp_path)
    return command_of(main)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With and without batch norm, two seeds each; one that diverged, one interrupted, one failed."""
    folder = tmp_path_factory.mktemp("runs")
    for name, norm, seed, last, test in (
        *(("a0", "batch", 0, 0.95, 0.93), ("a1", "batch", 1, 0.97, 0.95)),
        *(("b0", "none", 0, 0.90, 0.90), ("b1", "none", 1, 0.94, 0.92)),
    ):
        record(folder / name, f"norm={norm}", f"seed={seed}", val_accuracy=(0.5, last), test_accuracy=test)
    record(
        folder / "diverged",
        "norm=none",
        "optimizer.lr=10",
        val_accuracy=(0.2, 0.1, 0.1),
        val_loss=(5.0, 1e20, math.inf),
        status="diverged",
    )
    record(folder / "interrupted", "optimizer.lr=1", val_accuracy=(0.4,), test_accuracy=None, status="interrupted")
    record(folder / "failed", "optimizer.lr=2", val_accuracy=(), test_accuracy=None, status="failed", error="no disk")
    return folder


def lines(axes: Axes) -> dict[str, list[float]]:
    return {
        str(line.get_label()): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")
    }


def test_the_picture_shows_the_mean_over_seeds_with_a_band_of_one_deviation(runs: Path) -> None:
    figure = compare([runs / name for name in ("a0", "a1", "b0", "b1")]).figure()
    loss, accuracy = figure.axes
    assert lines(accuracy) == {"1: norm=batch": pytest.approx([0.5, 0.96]), "2: norm=none": pytest.approx([0.5, 0.92])}
    assert lines(loss) == {"1: norm=batch": pytest.approx([0.5, 0.04]), "2: norm=none": pytest.approx([0.5, 0.08])}
    bands = {tuple(band.get_facecolor()[0][:3]): band.get_paths()[0].vertices for band in accuracy.collections}
    assert len(bands) == 2
    middles = {str(line.get_label()): bands[to_rgb(line.get_color())] for line in accuracy.lines}
    for label, mean, deviation in (("1: norm=batch", 0.96, 0.01 * 2**0.5), ("2: norm=none", 0.92, 0.02 * 2**0.5)):
        at_the_end = {round(y, 12) for x, y in middles[label] if x == 2}
        assert sorted(at_the_end) == pytest.approx([mean - deviation, mean + deviation])
    trained = [line for line in accuracy.lines if line.get_label() == "_training"]
    assert sorted(line.get_ydata()[-1] for line in trained) == pytest.approx([0.97, 1.01])
    assert figure.get_suptitle() == (
        "digits, 100-100-100 relu, optimizer adam lr 0.002, batch 64, 30 epochs, 2 seeds; "
        "band: ± one standard deviation"
    )


def test_runs_that_did_not_complete_are_named_so(runs: Path, command: Callable) -> None:
    done = command(*(runs / name for name in ("a0", "diverged", "interrupted", "failed")), "--output", "x.png")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" \d", line)]
    assert [row[1:4] for row in rows] == [
        ["batch", "0.002", "completed"],
        ["none", "10", "diverged"],
        ["batch", "1", "interrupted"],
        ["batch", "2", "failed"],
    ]
    assert [row[4] for row in rows] == ["95.00", "20.00", "40.00", "none"]
    assert "failed: no disk" in done.stdout
    figure = compare([runs / name for name in ("a0", "diverged", "interrupted", "failed")]).figure()
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[:4] == [
        "1: norm=batch, lr=0.002",
        "2: norm=none, lr=10 (diverged)",
        "3: norm=batch, lr=1 (interrupted)",
        "4: norm=batch, lr=2 (failed)",
    ]
    (end,) = [line for line in figure.axes[1].lines if line.get_marker() == "x"]
    assert (list(end.get_xdata()), list(end.get_ydata())) == ([3], [0.1])
    assert figure.axes[0].get_ylim()[1] < 2  # the loss of 1e20 leaves the picture


def curve(losses: list[float]) -> dict[str, list[float]]:
    return {"epoch": list(range(1, len(losses) + 1)), "val_loss": losses, "val_accuracy": [1.0] * len(losses)}


def test_an_arm_whose_loss_explodes_does_not_flatten_the_others() -> None:
    """Nor does one of which a seed is cut short take the mean with it."""
    steady = Series("steady", [curve([2.0, 1.0, 0.5]), curve([4.0])], [False, True])
    exploding = Series("exploding", [curve([1e9, 1e10, 1e11])], [False])
    axes = draw([steady, exploding, Series("third", [curve([3.0, 1.0, 0.5])], [False])], "").axes[0]
    low, high = axes.get_ylim()
    assert 0.3 < low < 0.5
    assert 3 < high < 100
    assert lines(axes)["steady"] == [3.0, 1.0, 0.5]


def test_more_lines_than_can_be_told_apart_are_named_no_more() -> None:
    figure = draw([Series(f"arm {number}", [curve([1.0, 0.5])], [False]) for number in range(30)], "")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [*(f"arm {number}" for number in range(MOST_LINES - 1)), f"{30 - MOST_LINES + 1} others"]
    styles = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].lines}
    assert len(styles) == MOST_LINES  # each of the named ones has its own, and all others have one


@pytest.mark.parametrize("number", [1, 5, 20])
def test_the_legend_lies_outside_the_panels(number: int) -> None:
    label = "optimizer=nesterov, placement=before, num_units=100"
    figure = draw([Series(f"{n}: {label}", [curve([1.0, 0.5])], [False]) for n in range(number)], "a title")
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    for axes in figure.axes:
        assert not axes.get_tightbbox().overlaps(box)
        assert axes.bbox.height > 200


def test_the_colours_of_neighbours_differ_for_the_colour_blind() -> None:
    """Seen without red and green cones' difference (Viénot 1999, deuteranopia), each pair keeps a distance."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = np.linalg.inv(to_lms) @ np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]) @ to_lms
    seen = [blind @ np.array(to_rgb(colour)) ** 2.2 for colour in COLOURS]
    distances = [np.linalg.norm(a - b) for index, a in enumerate(seen) for b in seen[:index]]
    assert min(distances) > 0.09


def test_all_six_files_go_to_a_new_folder_by_default(runs: Path, command: Callable, tmp_path: Path) -> None:
    for _ in range(2):
        assert command(runs / "a0", runs / "b0").exit_code == 0
    folders = list(tmp_path.glob("outputs/comparisons/*/*"))
    assert len(folders) == 2
    starts = {"curves.png": b"\x89PNG", "curves.svg": b"<?xml", "curves.pdf": b"%PDF", "table.md": b"|  | norm |"}
    starts |= {"table.csv": b"norm,runs", "table.tex": b"% \\usepackage{booktabs}"}
    for folder in folders:
        assert {file.name for file in folder.iterdir()} == starts.keys()
        for name, start in starts.items():
            assert (folder / name).read_bytes().startswith(start)
        assert ElementTree.parse(folder / "curves.svg").getroot().tag.endswith("svg")
    assert len({(folder / "curves.svg").read_bytes() for folder in folders}) == 1  # the same bytes for the same figure
    assert len({(folder / "curves.pdf").read_bytes() for folder in folders}) == 1


def test_a_file_that_is_there_is_replaced_only_when_told_so(runs: Path, command: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("my own")
    refused = command(runs / "a0", "--output", "mine.png", "--output", "new.csv")
    assert refused.exit_code == 2
    assert "'mine.png' exists already" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.png").read_text() == "my own"
    assert command(runs / "a0", "--output", "mine.png", "--overwrite").exit_code == 0
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("form", "start"), [("markdown", "|  | norm"), ("csv", "norm,runs"), ("latex", "% \\use")])
def test_a_table_to_paste_is_all_that_is_printed(runs: Path, command: Callable, tmp_path: Path, form, start) -> None:
    done = command(runs / "a0", runs / "b0", "--table", form)
    assert done.stdout.startswith(start)
    assert (done.exit_code, done.stderr, list(tmp_path.iterdir())) == (0, "", [])


def test_a_sweep_brings_all_its_trials_and_what_was_tried_again_once(command: Callable, tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path / "sweep")
    for number, (seed, accuracy) in enumerate([(0, 0.1), (0, 0.9), (1, 0.8)]):
        record(sweep.trial(str(number)), f"seed={seed}", val_accuracy=(accuracy,), test_accuracy=accuracy)
    record(sweep.trial("later"), "norm=none", "seed=0", val_accuracy=(0.7,), test_accuracy=0.7)
    sweep.definition.write_text("id: x\n")
    sweep.trials.write_text(
        "number,status,val_accuracy,folder,error\n0,interrupted,,0,\n1,completed,0.9,1,\n2,completed,0.8,2,\n"
        "3,completed,0.7,later,\n4,failed,,,it cannot be composed\n5,completed,0.9,../../elsewhere,\n"
    )
    done = command(sweep.path, "--table", "csv")
    assert [line.split(",")[:2] for line in done.stdout.splitlines()[1:]] == [["batch", "2"], ["none", "1"]]
    arms = compare([sweep.path]).arms
    assert [arm.values("test_accuracy") for arm in arms] == [{1: 0.8, 0: 0.9}, {0: 0.7}]
    said = command(sweep.path, "--output", "x.csv").stdout
    assert "sweep: trial 4, failed, has no folder here: it cannot be composed" in said
    assert "trial 5, completed, has no folder here" in said


def of_an_earlier_version(folder: Path) -> Path:
    record(folder / "0")
    (folder / "sweep.yaml").write_text("")
    (folder / "trials.csv").write_text("number,state,val_accuracy,folder,reason\n0,completed,0.5,0,\n")
    return folder


def broken(folder: Path, name: str, content: bytes) -> Path:
    record(folder)
    (folder / name).write_bytes(content)
    return folder


MISTAKES = {
    "no folder": (lambda folder: folder, "does not exist"),
    "an empty folder": (lambda folder: (folder.mkdir(), folder)[1], "neither a run nor a sweep"),
    "a file": (lambda folder: (folder.write_text(""), folder)[1], "neither a run nor a sweep"),
    "the folder above": (
        lambda folder: record(folder / "12-00-00-1a2b3c").parent,
        "Below it there is 'x/12-00-00-1a2b3c'",
    ),
    "no metrics": (
        lambda folder: record(folder, val_accuracy=(), status="failed", error="no disk"),
        "no run has metrics ('x' failed)",
    ),
    "killed at once": (lambda folder: record(folder, val_accuracy=(), status="unfinished"), "('x' unfinished)"),
    "an empty sweep": (lambda folder: (folder.mkdir(), (folder / "sweep.yaml").write_text(""), folder)[2], "no trial"),
    "an earlier sweep": (of_an_earlier_version, "an earlier version of bnlab wrote trials.csv"),
    "damaged metrics": (lambda folder: broken(folder, "metrics.csv", b"epoch,step\n1,2,3\n"), "row 1 has 3 values"),
    "damaged summary": (lambda folder: broken(folder, "summary.json", b"{"), "cannot be read"),
    "summary of none": (lambda folder: broken(folder, "summary.json", b"[]"), "summary.json is damaged"),
    "damaged config": (lambda folder: broken(folder, "config.yaml", b"[]"), "config.yaml has no settings"),
    "binary config": (lambda folder: broken(folder, "config.yaml", b"\xff\xfe"), "cannot be read"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(command: Callable, mistake: str) -> None:
    make, told = MISTAKES[mistake]
    done = command(make(Path("x")))
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "x.gif"], "must end with one of .png"),
        (["--output", "/proc/nowhere/x.png"], "cannot be written"),
        (["--baseline", "norm=foo"], "`--baseline` must be settings"),
    ],
)
def test_so_does_one_in_an_option(runs: Path, command: Callable, arguments: list[str], told: str) -> None:
    done = command(runs / "a0", runs / "b0", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_comparing_needs_no_torch_and_leaves_no_text_of_math(runs: Path, tmp_path: Path) -> None:
    record(tmp_path / "odd", "+data.root=x", "+model.name='$x^'")
    code = (
        "import sys\nfrom bnlab.compare import main\nmain()\n"
        "sys.exit(bool({'torch', 'lightning', 'optuna', 'hydra'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-W", "error", "-c", code, runs / "a0", tmp_path / "odd", "--output", tmp_path / "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.name" in (tmp_path / "all" / "table.csv").read_text()


def grid_of(text: str) -> list[list[str]]:
    """The cells of a table on the screen, which are two blanks apart."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return [row for row in rows if len(row) > 1]


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_fits_the_terminal_or_says_what_is_left_out(runs: Path, width: int) -> None:
    few = on_screen(compare([runs / name for name in ("a0", "b0", "interrupted")]).table, width)
    many = [Arm(f"lr={n}", {"optimizer.lr": str(n)}, (result(n),)) for n in range(30)]
    table = make_table(["optimizer.lr"], many, ["val_accuracy", "test_accuracy"], [0] * 30)
    for shown in (few, on_screen(table, width)):
        console = Console(width=width, file=io.StringIO())
        console.print(shown)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
    cells = grid_of(text)
    assert [row[0] for row in cells if row[0].isdecimal()] == [str(number) for number in range(1, 21)]
    left_out = "1 more columns and 10 more rows" if width == 80 else "10 more rows"
    assert f"The files contain {left_out}." in text


def result(number: int) -> Result:
    values = {"val_accuracy": number / 30, "test_accuracy": number / 31}
    return Result("run", "run", Settings({"optimizer.lr": number}), 0, Status("completed"), values=values)
