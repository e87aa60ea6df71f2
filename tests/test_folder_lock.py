"""One process at a time in a folder, against real processes."""

import os
import time
from pathlib import Path

import pytest
from forked import at_once, killed, started, wait_until

from bnlab.io.folder_lock import FolderLock, is_locked


def hold(folder: Path, and_fork: bool = False) -> None:
    lock = FolderLock(folder)
    if and_fork:
        child = os.fork()
        if child == 0:
            lock.release()  # not the child's
            time.sleep(60)
        (folder.parent / "child").write_text(str(child))
    (folder.parent / "held").touch()
    time.sleep(60)


@pytest.mark.parametrize("and_fork", [False, True], ids=["alone", "with a child that lives on"])
def test_a_lock_ends_with_its_process(and_fork: bool, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    owner = started(hold, folder, and_fork)
    wait_until((tmp_path / "held").exists)
    try:
        with pytest.raises(BlockingIOError):
            FolderLock(folder)
        killed(owner)
        with FolderLock(folder, wait_s=5) as lock:
            assert lock.is_held
            assert list(folder.iterdir()) == []
    finally:
        if and_fork:
            os.kill(int((tmp_path / "child").read_text()), 9)


def test_of_many_that_come_at_once_one_gets_in(tmp_path: Path) -> None:
    def attempt(number: int) -> bool:
        with FolderLock(tmp_path):
            time.sleep(0.5)
        return True

    outcomes = at_once(attempt, 6)
    assert [outcome for outcome in outcomes if not isinstance(outcome, BlockingIOError)] == [True]


def test_it_keeps_out_its_own_process_too_and_gives_its_descriptors_back(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with FolderLock(tmp_path) as lock:
        assert is_locked(tmp_path)
        lock.release()
        assert not is_locked(tmp_path)
    assert os.listdir("/proc/self/fd") == before
    assert not is_locked(tmp_path / "nowhere")


def test_a_folder_that_was_replaced_is_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with FolderLock(folder) as lock:
        assert lock.is_in_place()
        folder.rename(tmp_path / "kept")
        assert not lock.is_in_place()
        folder.mkdir()
        assert not lock.is_in_place()
        with FolderLock(folder) as second:
            assert second.is_in_place()


def test_an_owner_that_is_about_to_leave_is_waited_for(tmp_path: Path) -> None:
    def leave_soon() -> None:
        with FolderLock(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(0.3)

    owner = started(leave_soon)
    wait_until((tmp_path / "held").exists)
    with FolderLock(tmp_path, wait_s=10):
        pass
    owner.join()
