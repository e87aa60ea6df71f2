"""Output that nobody reads any more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENTS = ("trainer.max_epochs=2", "trainer.accelerator=cpu", "model.hidden=[4]")


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["| head -1", "2>&1 | head -1", "| true", "2>&1 | true"])
def test_a_run_goes_on_to_its_end_when_its_reader_leaves(streams: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m bnlab.train hydra.run.dir=run {' '.join(ARGUMENTS)}"
    line = f"set -o pipefail; {command} {streams}; echo $?"
    outcome = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.stdout.splitlines()[-1] == "0"
    assert outcome.stderr == ""
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


def test_a_sweep_does_too(tmp_path: Path) -> None:
    command = f"{sys.executable} -m bnlab.train -m hydra.sweep.dir=sweep seed=0,1 {' '.join(ARGUMENTS)}"
    line = f"set -o pipefail; {command} hydra/launcher=stacked | head -1; echo $?"
    outcome = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.stdout.splitlines()[-1] == "0"
    assert "Traceback" not in outcome.stderr + outcome.stdout
    assert "Broken pipe" not in outcome.stderr + outcome.stdout
    assert len((tmp_path / "sweep" / "trials.csv").read_text().splitlines()) == 3


def test_what_goes_to_stderr_goes_there_at_once() -> None:
    """Before what stdout gets later, where both are one pipe; and not at the end, which a kill would take away."""
    code = (
        "import os, sys; from bnlab.process.lost_reader import outlast_readers; outlast_readers(); "
        "print('first', file=sys.stderr); print('second', flush=True); print('third', file=sys.stderr); os._exit(0)"
    )
    command = [sys.executable, "-c", code]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    assert outcome.stdout.split() == ["first", "second", "third"]
