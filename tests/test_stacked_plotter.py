"""Pictures of a worker's networks come from a process that has matplotlib, and are plotted here where that is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from bnlab.stacked.processes.plotter import Plotter, plot_here, start_plot_server
server = start_plot_server()
plotters = [Plotter(server), Plotter(server)]
if sys.argv[2] == "closed":
    import socket
    server.close()
    server, theirs = socket.socketpair()
    theirs.close()
    plotters.append(Plotter(server))  # of a server that has ended
assert "matplotlib" not in sys.modules
from test_figures import training  # which imports matplotlib
trainings = [training(0.1), training(0.3)]
expected = plot_here(trainings)
for plotter in plotters * 2:
    assert plotter(trainings) == expected
"""


@pytest.mark.parametrize("server", ["open", "closed"])
def test_a_plotter_plots_what_would_be_plotted_here_and_ends_with_its_worker(server) -> None:
    """The call returns when every process that was forked has let go of the pipes."""
    command = [sys.executable, "-c", CODE, str(Path(__file__).parent), server]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""


def test_a_stacked_sweep_ends_with_all_its_processes(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "bnlab.train", "-m", "hydra/launcher=stacked", "seed=0,1", "trainer.max_epochs=1"),
        *("trainer.accelerator=cpu", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"),
    ]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    assert (tmp_path / "sweep" / "1" / "curves.png").read_bytes().startswith(b"\x89PNG")
