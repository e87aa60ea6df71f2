"""The chaos benchmark: it must see every difference, and find the processes that it kills."""

import csv
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from bnlab.bench.__main__ import main as bench
from bnlab.bench.chaos.comparison import differences, faults
from bnlab.bench.chaos.disturbances import damage
from bnlab.bench.chaos.processes import MARK, find, send
from bnlab.bench.chaos.round import draw_round


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep of two trials, as the launcher in this process trains them."""
    from bnlab.train import main

    folder = tmp_path_factory.mktemp("whole")
    words = ["optimizer.lr=0.01,0.1", "trainer.max_epochs=2", "trainer.accelerator=cpu", "model.hidden=[8]"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["bnlab.train", "-m", *words, f"hydra.sweep.dir={folder}/sweep"])
        main()
    return folder / "sweep"


def in_json(key, value):
    def change(file):
        content = json.loads(file.read_text())
        content[key] = value
        file.write_text(json.dumps(content))

    return change


def in_csv(row, key, value):
    def change(file):
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        rows[row][key] = value
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    return change


def without_last_line(file):
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def in_one_bit(file):
    checkpoint = torch.load(file, weights_only=True)
    weight = next(iter(checkpoint["state_dict"].values()))
    weight.view(torch.int32).flatten()[0] ^= 1
    torch.save(checkpoint, file)


def in_config(file):
    file.write_text(file.read_text().replace("seed: 0", "seed: 1"))


def in_best_objective(file):
    file.write_text(re.sub(r"\| 1 \| (\d+) \| ", r"| 1 | \1 | 1", file.read_text()))


CHANGES = {
    "1/metrics.csv": [in_csv(1, "val_loss", "0.5"), without_last_line],
    "1/summary.json": [in_json("test_accuracy", 0.5), in_json("steps", 3)],
    "0/checkpoints/best.ckpt": [in_one_bit],
    "0/checkpoints/last.ckpt": [in_one_bit, os.remove],
    "0/config.yaml": [in_config],
    "trials.csv": [in_csv(0, "val_accuracy", "0.5"), in_csv(1, "optimizer.lr", "0.2"), without_last_line],
    "leaderboard.md": [in_best_objective],
}


def test_a_sweep_equals_its_copy_and_is_complete(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    assert differences(whole, tmp_path / "copy") == []
    assert faults(whole, 2) == []


@pytest.mark.parametrize(
    ("file", "change"),
    [(file, change) for file, changes in CHANGES.items() for change in changes],
    ids=lambda value: value if isinstance(value, str) else value.__qualname__.partition(".")[0],
)
def test_any_change_of_a_result_is_seen(whole, tmp_path, file, change):
    copy = shutil.copytree(whole, tmp_path / "copy")
    change(copy / file)
    assert differences(whole, copy)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("1/metrics.csv", in_csv(1, "seconds", "99")),
        ("1/summary.json", in_json("seconds", 99.0)),
        ("1/summary.json", in_json("sweep", {"id": "another", "folder": "1"})),
        ("trials.csv", in_csv(1, "seconds", "99")),
    ],
)
def test_what_was_measured_may_differ(whole, tmp_path, file, change):
    copy = shutil.copytree(whole, tmp_path / "copy")
    change(copy / file)
    assert differences(whole, copy) == []


def test_a_trial_that_was_tried_again_counts_by_its_last_try(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "1").rename(copy / "2")
    lines = (copy / "trials.csv").read_text().splitlines()
    again = lines[2].replace("1,completed", "2,completed").replace(",1,", ",2,")
    interrupted = lines[2].replace("1,completed", "1,interrupted")
    (copy / "trials.csv").write_text("\n".join([lines[0], lines[1], interrupted, again]) + "\n")
    assert differences(whole, copy) == []
    assert faults(copy, 2) == []


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("trials.csv", without_last_line, "1 trials have a result, not 2"),
        ("1/metrics.csv", in_csv(0, "val_accuracy", "0.99"), ""),
        ("1/metrics.csv", without_last_line, "1 epochs in metrics.csv, 2 in summary.json"),
        ("1/summary.json", in_json("objective", 2.0), "its objective is"),
        ("1/summary.json", in_json("status", "failed"), "completed in trials.csv, failed in summary.json"),
        ("1/summary.json", os.remove, "its folder cannot be read"),
        ("1/.summary.json.abc", lambda file: file.write_text("half"), "left behind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sweep_that_contradicts_itself_is_seen(whole, tmp_path, file, change, expected):
    copy = shutil.copytree(whole, tmp_path / "copy")
    change(copy / file)
    found = faults(copy, 2)
    assert any(expected in line for line in found) if expected else found == []


def test_processes_are_found_and_killed_by_their_mark_and_no_others():
    mark = secrets.token_hex(8)
    code = "import os, time; os.fork(); print(end='.', flush=True); time.sleep(60)"
    marked, other = (
        subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: of}, stdout=subprocess.PIPE)
        for of in (mark, "another")
    )
    try:
        for process in (marked, other):
            assert process.stdout.read(2) == b".."
        assert find(mark)[0].pid == marked.pid
        assert len(find(mark)) == 2
        send(find(mark), signal.SIGKILL)
        assert marked.wait(10) == -signal.SIGKILL
        while find(mark):
            pass
        assert other.poll() is None
    finally:
        send([*find(mark), *find("another")], signal.SIGKILL)
        for process in (marked, other):
            process.stdout.close()
            process.wait()


def test_a_round_is_drawn_by_its_seed_and_number_alone():
    first = [draw_round(7, number) for number in range(20)]
    again = [draw_round(7, number) for number in reversed(range(20))]
    assert [(each.kind, each.disturbances) for each in first] == [
        (each.kind, each.disturbances) for each in reversed(again)
    ]
    assert len({(each.kind, *each.disturbances) for each in first}) > 15


@pytest.mark.parametrize("seed", range(12))
def test_damage_changes_one_file(whole, tmp_path, seed):
    copy = shutil.copytree(whole, tmp_path / "copy")

    def contents():
        return {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    before = contents()
    said = damage(copy, ["1"], random.Random(seed))
    after = contents()
    (changed,) = [path for path in before if before[path] != after[path]]
    assert changed.name in said or "journal" in said


@pytest.mark.slow
def test_a_killed_sweep_is_resumed_and_compared(capsys):
    bench(["chaos", "--minutes", "0", "--seed", "1", "--disturbances", "kill all", "--launchers", "joblib"])
    printed = capsys.readouterr().out
    assert "round 0: joblib" in printed
    assert "1 rounds" in printed
