"""The cache folders of compiled C code: which are chosen, who may write to them, and what is left in them."""

import logging
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from answer_library import SHOW, Place, answer, folder_of, needs_compiler, prepared_place

from bnlab.batch_norm.c_library import folders, library

pytestmark = needs_compiler
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or mount")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return prepared_place(tmp_path, monkeypatch)


NOBODY = 65534
AS_OTHER = "os.setgroups([]); os.setgid({user}); os.setuid({user})" + SHOW


@pytest.fixture
def shared_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Which another user can read."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        place = Place(Path(folder))
        place.temporary.chmod(0o1777)
        yield place


def test_no_umask_makes_what_others_can_write(place: Place) -> None:
    before = os.umask(0)
    try:
        assert answer(place.load()) == 42
    finally:
        os.umask(before)
    assert folder_of(place.load()) == place.cache
    assert not any(path.stat().st_mode & 0o022 for path in (place.cache, *place.cache.iterdir()))


def test_who_waits_too_long_goes_on_without(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.cache.mkdir()
    monkeypatch.setattr(library, "SECONDS", -29.5)  # others wait half a minute longer
    with folders.locked(place.cache, 0) as alone:
        assert alone
        assert place.load() is None


def test_what_killed_processes_left_is_removed_by_the_next(place: Place) -> None:
    place.cache.mkdir()
    with folders.scratch_in(place.cache, alone=True) as left:
        (left / "library.so").touch()
        ours = left.name.rpartition("-")[0]
        theirs, long_left = (left.with_name(f"{ours[:-8]}otherone-{name}") for name in "ab")  # another machine's
        users = place.cache / ".settings-x"  # who has chosen a folder with more in it
        for folder in (theirs, long_left, users):
            folder.mkdir()
        for folder in (long_left, users):
            os.utime(folder, (0, 0))
        assert answer(place.load()) == 42
        assert [path.exists() for path in (left, theirs, long_left, users)] == [False, True, False, True]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@as_root
@pytest.mark.parametrize("options", ["mode=755,size=4k", "mode=755,nr_inodes=1", "mode=755,noexec", "mode=755,ro"])
def test_a_folder_that_cannot_keep_code_is_passed_over(
    place: Place, options: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", place.compiler('exec cc "$@"'))
    with mounted(place.cache, options):
        assert answer(place.load()) == 42
        calls = place.calls
        assert folder_of(place.load()) == place.second
        assert place.calls == calls  # the second place keeps it
        assert not list(place.cache.iterdir())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert stat.S_IMODE(place.second.stat().st_mode) == 0o700


def test_a_choice_that_is_no_folder_is_passed_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, target in {"loop": "loop", "nowhere": "missing"}.items():
        (place.root / name).symlink_to(target)
    (place.root / "file").touch()
    before = {*place.root.iterdir()}
    for chosen in ("file", "file/below", "loop", "nowhere", "x" * 300):
        monkeypatch.setenv("BNLAB_CACHE", str(place.root / chosen))
        assert folder_of(place.load()) == place.second, chosen
    monkeypatch.setenv("BNLAB_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    for home in ("/proc/none", "relative"):
        monkeypatch.setenv("HOME", home)
        assert folder_of(place.load()) == place.second, home
    assert {*place.root.iterdir()} == before


def test_a_relative_choice_stays_where_the_process_started(place: Place) -> None:
    program = f"os.chdir({str(place.temporary)!r})" + SHOW
    assert place.run(program, BNLAB_CACHE="some/cache")[0].startswith(f"42 {place.root}/some/cache/")
    assert place.run(program, BNLAB_CACHE=".")[0].startswith(f"42 {place.root}/sources-answer-")
    assert place.run(BNLAB_CACHE="~/kept", HOME=str(place.root))[0].startswith(f"42 {place.root}/kept/")
    link = place.root / "link"
    link.symlink_to(place.root / "some")
    assert place.run(BNLAB_CACHE="link/cache")[0].startswith(f"42 {place.root}/some/cache/")


def test_a_folder_that_others_can_write_to_is_passed_over(place: Place) -> None:
    answer(place.load())
    for mode in (0o775, 0o757, 0o1777):
        place.cache.chmod(mode)
        assert folder_of(place.load()) == place.second, oct(mode)
    place.cache.chmod(0o755)
    assert folder_of(place.load()) == place.cache
    place.root.chmod(0o1777)  # others can rename nothing in it
    assert folder_of(place.load()) == place.cache
    for mode in (0o775, 0o757):
        place.root.chmod(mode)
        assert folder_of(place.load()) not in (place.cache, place.second), oct(mode)


@as_root
def test_nothing_of_another_user_is_loaded(shared_place: Place) -> None:
    place = shared_place
    compiler = place.compiler('[ $UID = 0 ] && exec cc "$@"')
    place.run(CC=compiler)
    (kept,) = place.cache.iterdir()
    by_nobody, by_another = (AS_OTHER.format(user=user) for user in (NOBODY, 12345))
    # Root's code is for everyone.
    assert place.run(by_nobody, CC=compiler) == (f"42 {kept}", "")
    # In a folder of root's a file of another user's is replaced.
    os.chown(kept, NOBODY, NOBODY)
    assert place.run(by_another, CC=compiler)[0] == "None None"
    assert place.run(CC=compiler) == (f"42 {kept}", "")
    assert kept.stat().st_uid == 0
    # In a folder of another user's nothing is believed, whoever owns it.
    for owner in (0, NOBODY):
        os.chown(kept, owner, owner)
        os.chown(place.cache, NOBODY, NOBODY)
        assert place.run(CC=compiler)[0].startswith(f"42 {place.second}/")
        assert place.run(by_another, CC=compiler)[0] == "None None"
        assert place.run(by_nobody, CC=compiler)[0] == f"42 {kept}"


@as_root
def test_nobody_can_choose_where_root_keeps_code(shared_place: Place) -> None:
    place = shared_place
    mine, target = place.temporary / "bnlab-0", place.root / "target"
    target.mkdir()
    for squat in (mine.mkdir, lambda: mine.symlink_to(target), mine.touch):
        squat()
        os.chown(mine, NOBODY, NOBODY, follow_symlinks=False)
        printed, errors = place.run(BNLAB_CACHE=str(place.temporary / "bnlab-0" / "deeper"))
        # In a folder for this process alone, which is removed again.
        assert printed.startswith(f"42 {place.temporary}/bnlab-")
        assert not printed.startswith(f"42 {mine}/")
        assert (errors, list(target.iterdir()), [*place.temporary.iterdir()]) == ("", [], [mine])
        mine.rmdir() if mine.is_dir() and not mine.is_symlink() else mine.unlink()
