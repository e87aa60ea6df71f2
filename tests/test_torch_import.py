"""Ctrl-C while torch is being imported: the program still ends in a line, and says how to go on."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bnlab.config.trust import known_by_name, known_target
from bnlab.search.sweeps.trust import reasons_of_configs

# A real signal at a place that a person would hardly hit: when torch begins to import one of its own parts.
INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == PART:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from bnlab.train import main
main()
"""


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        ("bnlab.errors", ()),
        ("hydra.core.utils", ()),
        ("numpy.random", ()),
        ("torch.nn", ()),
        ("lightning.pytorch", ()),
        ("torch.nn", ("-m", "hydra.sweep.dir=sweep", "seed=0,1")),
    ],
    ids=["bnlab", "hydra", "numpy", "torch", "lightning", "torch in a sweep"],
)
def test_an_interruption_of_an_import_ends_in_a_line(part, arguments, tmp_path: Path) -> None:
    code = INTERRUPTING.replace("PART", repr(part))
    command = [sys.executable, "-c", code, *arguments, "trainer.max_epochs=1"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert outcome.returncode == 130, outcome.stderr
    assert "Interrupted." in outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stdout + outcome.stderr
    if "-m" in arguments:
        assert "search.resume=sweep" in outcome.stdout + outcome.stderr
        assert "search.trust" not in outcome.stdout + outcome.stderr
    else:
        assert outcome.stderr == "Interrupted.\n"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "bnlab.network.MLP",
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.StepLR",
        "torch.load",
        "torch.nn.modules.module.torch.load",
        "torch.nn.init.constant_",
        "os.system",
        "torch.hub.load",
    ],
)
def test_a_name_is_known_without_torch_as_it_is_with_it(name: str) -> None:
    assert known_by_name(name) == (known_target(name) is not None)
    config = OmegaConf.create({"hydra": {}, "model": {"_target_": name}})
    assert list(reasons_of_configs(config, known_by_name)) == list(reasons_of_configs(config))
