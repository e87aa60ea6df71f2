"""Whole files, whatever happens while they are written: real kills, real full disks, a real loss of power."""

import errno
import os
import random
import time
from pathlib import Path

import pytest
from forked import killed, started, wait_until

from bnlab.io.atomic_file import remove_unfinished, to_disk, write_bytes, write_text


def test_a_full_disk_leaves_the_old_file_whole_and_is_told_with_its_name(mounted) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    write_text(disk / "file", "old")
    with pytest.raises(OSError, match="file") as error:
        write_bytes(disk / "file", bytes(100_000))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(disk / "file"))
    assert os.listdir(disk) == ["file"]
    assert (disk / "file").read_text() == "old"


def test_a_reader_and_a_kill_never_see_half_of_a_file(tmp_path: Path) -> None:
    size, path = 3_000_000, tmp_path / "file"

    def write_on() -> None:
        while True:
            for letter in (b"a", b"b"):
                write_bytes(path, letter * size)

    draw = random.Random(0)
    for _ in range(4):
        writer = started(write_on)
        wait_until(path.exists)
        end = time.monotonic() + draw.uniform(0.01, 0.1)
        while time.monotonic() < end:
            content = path.read_bytes()
            assert content in (b"a" * size, b"b" * size)
        killed(writer)
        assert path.read_bytes() in (b"a" * size, b"b" * size)
    remove_unfinished([path])
    assert os.listdir(tmp_path) == ["file"]


def test_only_unfinished_files_of_ours_are_removed(tmp_path: Path) -> None:
    kept = {"file", ".file.swp", ".file.toolongforus", ".file.abcdefg8~", ".other.abcd_fg8", "file.abcd_fg8"}
    for name in (*kept, ".file.abcd_fg8", ".file.12345678"):
        (tmp_path / name).touch()
    (tmp_path / ".file.afolder1").mkdir()
    remove_unfinished([tmp_path / "file", tmp_path / "nowhere" / "file"])
    assert set(os.listdir(tmp_path)) == {*kept, ".file.afolder1"}


def test_what_is_on_the_disk_survives_a_power_cut(powered) -> None:
    disk, after_power_cut = powered
    for name in ("synced", "not"):
        (disk / name / "deeper").mkdir(parents=True)
        write_bytes(disk / name / "deeper" / "file", b"x" * 100_000)
        if name == "synced":
            to_disk([disk / name])
    found = after_power_cut()
    assert (found / "synced/deeper/file").read_bytes() == b"x" * 100_000
    assert not (found / "not/deeper/file").exists()  # else this test would show nothing


def test_without_syncfs_files_and_folders_are_waited_for_one_by_one(powered, monkeypatch) -> None:
    monkeypatch.setattr("bnlab.io.atomic_file._syncfs", lambda: None)
    test_what_is_on_the_disk_survives_a_power_cut(powered)
