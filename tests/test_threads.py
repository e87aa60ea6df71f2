import json
from pathlib import Path

import lightning as L
import pytest
import torch
from rich.console import Console

import bnlab
from bnlab.engines.fit import fit
from bnlab.training.threads import WORK_PER_THREAD, suitable_num_threads, use_threads


def test_auto_takes_threads_in_proportion_to_the_work_of_a_step() -> None:
    with use_threads(3):
        samples = 64
        chosen = [suitable_num_threads("auto", int(work * WORK_PER_THREAD) // samples, samples) for work in (0.1, 2, 9)]
        assert chosen == [1, 2, 3]
        assert suitable_num_threads(2, 1, 1) == 2


@pytest.mark.parametrize(("wanted", "expected"), [("auto", 1), ("2", 2)])
def test_training_and_testing_run_on_the_chosen_threads(wanted: str, expected: int, tmp_path: Path) -> None:
    seen: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, *arguments: object) -> None:
            seen.append(torch.get_num_threads())

        on_test_batch_end = on_train_batch_end

    config = bnlab.compose(["trainer.max_steps=2", "trainer.accelerator=cpu", f"num_threads={wanted}"])
    with use_threads(3):
        fit(config, tmp_path / "run", console=Console(quiet=True), callbacks=[Watch()])
        assert torch.get_num_threads() == 3
    assert set(seen) == {expected}
    assert len(seen) == 3
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "completed"
