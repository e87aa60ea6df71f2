"""A notebook as a reader would write it, run by a kernel of its own: what its cells show is what the folders hold."""

import base64
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import bnlab

nbclient = pytest.importorskip("nbclient", reason="nbclient runs the notebook, and is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is what runs its cells, and is not installed")

SHORT = '"trainer.max_epochs=2", "trainer.accelerator=cpu", "model.hidden=[16]"'
CELLS = {
    "imports": "import bnlab\nfrom IPython.display import SVG, Image, Markdown",
    "run": f'run = bnlab.run([{SHORT}, "trainer=quick", "seed=3"], "one")\nrun',
    "curves": "Image(run.folder.curves)",
    "sweep": f'sweep = bnlab.sweep([{SHORT}, "norm=batch,none", "search.seeds=2", "hydra/launcher=stacked"], "two")',
    "read back": 'again = bnlab.load_sweep("two")\nassert again == sweep\nagain',
    "table": "Markdown(again.table())",
    "picture": 'SVG(filename="two/search.svg")',
    "both": "run, sweep",
    "mistake": "bnlab.run(['lr=0.1'])",
    "mistake in a sweep": "bnlab.sweep(['lr=0.1'])",
}
if importlib.util.find_spec("pandas") is not None:
    CELLS |= {"frame of a run": "run.to_pandas()", "frame of a sweep": "again.to_pandas().to_json()"}


def executed(folder: Path) -> dict[str, list[Any]]:
    """What each cell put out."""
    from nbformat.v4 import new_code_cell, new_notebook

    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS.values()])
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", allow_errors=True, resources=resources
    ).execute()
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def cells_of(html: str) -> list[list[str]]:
    table = ElementTree.fromstring(html)
    return [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's own
def test_a_notebook_shows_what_the_folders_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # the kernel has the modules of this test
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    outputs = executed(tmp_path)
    errors = {name: found[-1] for name, found in outputs.items() if found and found[-1].output_type == "error"}
    assert set(errors) == {"mistake", "mistake in a sweep"}
    for error in errors.values():
        assert error.traceback == ["UserError: There is no setting `lr`: did you mean optimizer.lr=0.1?"]
    shown = {name: found[-1].get("data") for name, found in outputs.items() if found}
    summary = json.loads((tmp_path / "one/summary.json").read_text())
    test_accuracy = f"{100 * summary['test_accuracy']:.2f} %"

    assert shown["run"]["text/plain"] == f"Run('one', completed, test accuracy {test_accuracy})"
    rows = dict(cells_of(shown["run"]["text/html"]))
    assert rows["test accuracy"] == test_accuracy
    assert rows["val loss"] == f"{summary['val_loss']:#.4g}"
    told = "".join(output["data"]["text/plain"] for output in outputs["run"] if output.output_type == "display_data")
    assert test_accuracy in told
    assert "Picture: one/curves.png" in told
    assert base64.b64decode(shown["curves"]["image/png"]) == (tmp_path / "one/curves.png").read_bytes()

    told = "".join(output.text for output in outputs["sweep"])
    assert "4/4 done, best val_accuracy" in told
    assert "\x1b" not in told
    sweep = bnlab.load_sweep(tmp_path / "two")
    means = [sum(sweep.metrics["val_accuracy"][start : start + 2]) / 2 for start in (0, 2)]
    best = f"{100 * max(means):.2f} %"
    assert f"best val_accuracy {best}" in told
    assert shown["read back"]["text/plain"] == f"Sweep('two', 4 trials, best val_accuracy {best})"
    header, *rows = cells_of(shown["read back"]["text/html"])
    column = header.index("val_accuracy")
    assert {row[0]: row[column] for row in rows} == {
        str(number): f"{100 * value:.2f} %" for number, value in enumerate(sweep.metrics["val_accuracy"])
    }
    assert shown["table"]["text/markdown"] == sweep.table()
    assert ElementTree.fromstring(shown["picture"]["image/svg+xml"]).tag.endswith("svg")
    assert "Run('one'" in shown["both"]["text/plain"]
    assert "Sweep('two'" in shown["both"]["text/plain"]
    if "frame of a run" in shown:
        assert len(cells_of(shown["frame of a run"]["text/html"].partition("</style>")[2].removesuffix("</div>"))) == 3
        frame = json.loads(shown["frame of a sweep"]["text/plain"].strip("'"))
        assert list(frame["val_accuracy"].values()) == pytest.approx(sweep.metrics["val_accuracy"])
        assert list(frame) == list(sweep.metrics)


def test_ipython_shows_a_sweep_as_a_table() -> None:
    from IPython.core.formatters import DisplayFormatter

    from bnlab.runs.sweeps import Sweep

    sweep = Sweep(Path("x"), "val_loss", {"number": [0], "status": ["completed"], "val_loss": [0.25]}, None, 0.25)
    shown, _ = DisplayFormatter().format(sweep)
    assert shown["text/plain"] == "Sweep('x', 1 trial, best val_loss 0.2500)"
    assert cells_of(shown["text/html"])[1] == ["0", "completed", "0.2500"]
