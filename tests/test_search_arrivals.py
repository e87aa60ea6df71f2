"""Folders that come one after another, found as soon as they are there and never twice."""

import random

import pytest

from bnlab.search.sweeps.arrivals import Arrivals

NAMES = ["7", "lr=0.1/seed=1", "lr=0.1/seed=2", "lr=0.2/a/b/c", "lr=0.2/a", "x/", "y//z"]


@pytest.mark.parametrize("seed", range(5))
def test_each_folder_is_found_once_and_at_once(seed, tmp_path):
    """Many come within one tick of the file system's clock."""
    names = NAMES + [f"{number}" for number in range(100, 130)]
    root = tmp_path / "later"
    arrivals = Arrivals(root, names)
    assert arrivals.new() == []
    left = set(names)
    coming = random.Random(seed).sample(names, len(names))
    for name in coming:
        (root / name).mkdir(parents=True, exist_ok=True)
        there = {each for each in left if (root / each).is_dir()}
        assert set(arrivals.new()) == there
        left -= there
    assert arrivals.new() == []


def test_only_folders_count_and_others_than_those_awaited_do_not(tmp_path):
    arrivals = Arrivals(tmp_path, ["1", "2"])
    (tmp_path / "1").write_text("")
    (tmp_path / "3").mkdir()
    assert arrivals.new() == []
    (tmp_path / "1").unlink()
    (tmp_path / "1").mkdir()
    assert arrivals.new() == ["1"]


def test_a_folder_is_found_when_nothing_has_changed_for_long(tmp_path):
    arrivals = Arrivals(tmp_path, ["1", "2"])
    (tmp_path / "1").mkdir()
    assert [arrivals.new() for _ in range(50)] == [["1"]] + [[]] * 49
    (tmp_path / "2").mkdir()
    assert arrivals.new() == ["2"]
