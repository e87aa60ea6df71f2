"""The journal of a study: disks that are full, damaged lines, and several processes at once."""

import errno
import json
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from real_disks import fill, tmpfs

from bnlab.search.study.journal import Journal, mend


def until_full(write):
    """Call `write` until the disk is full; how often it worked."""
    number = 0
    while True:
        try:
            write(number)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
            return number
        number += 1


@pytest.fixture
def disk(tmp_path):
    with tmpfs(tmp_path / "disk", 1 << 16) as folder:
        yield folder


def log(number):
    return {"op_code": 8, "worker_id": "w", "trial_id": number, "user_attr": {"filler": "x" * 300}}


def study_in(path, name="s"):
    return optuna.create_study(storage=JournalStorage(Journal(path)), study_name=name, load_if_exists=True)


def damaged_copies(path):
    return sorted(path.parent.glob(f"{path.name}.damaged-*"))


def reread(path):
    """By Optuna's own class."""
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


@pytest.mark.parametrize("num_logs", [1, 40])  # of which some fit
def test_a_full_disk_takes_all_of_an_append_or_nothing(disk, num_logs):
    path = disk / "j"
    journal = Journal(path)
    journal.append_logs([log(0)])
    before = path.read_bytes()
    ballast = fill(disk)
    times = until_full(lambda i: journal.append_logs([log(1 + i * num_logs + j) for j in range(num_logs)]))
    appended = 1 + times * num_logs
    full = path.read_bytes()
    assert full.startswith(before)
    assert full.count(b"\n") == appended
    ballast.unlink()
    journal.append_logs([log(appended)])
    assert [line["trial_id"] for line in map(json.loads, path.read_text().splitlines())] == list(range(appended + 1))
    assert [line["trial_id"] for line in journal.read_logs(0)] == list(range(appended + 1))


def test_a_study_goes_on_after_its_disk_was_full(disk):
    path = disk / "j"
    study = study_in(path)
    study.tell(study.ask(), 3.0)
    ballast = fill(disk)
    until_full(lambda number: study.set_user_attr("filler", "x" * 500))
    ballast.unlink()
    study.tell(study.ask(), 1.0)
    assert [trial.value for trial in reread(path).trials] == [3.0, 1.0]
    assert [trial.value for trial in study.trials] == [3.0, 1.0]


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"{", b"\0" * 9000, b"\xff\xfe"], ids=repr)
def test_an_append_cuts_off_a_line_whose_end_is_missing(tmp_path, torn):
    """A process that was killed between two parts of a write leaves it, while others go on."""
    path = tmp_path / "j"
    study = study_in(path)
    study.tell(study.ask(), 3.0)
    with path.open("ab") as file:
        file.write(torn)
    study.tell(study.ask(), 1.0)
    assert [trial.value for trial in reread(path).trials] == [3.0, 1.0]


LINE = b'{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":null}\n'
DAMAGES = [
    b"rubbish\n",
    b"\0" * 5000 + b"\n",
    b"\0" * 100 + LINE,
    b'{"op_code":4,"wor' + LINE,
    b"\xff\xfe\xfa\n",
    b'{"op_code":4,"worker_id":"\xe9"}\n',
    b"\n",
    b"{}\n",
    b"[]\n",
    b"null\n",
    b'{"op_code":99,"worker_id":"w"}\n',
    b'{"op_code":4,"worker_id":"w"}\n',
    b'{"op_code":5,"worker_id":"w","trial_id":[]}\n',
    b"[" * 100_000 + b"\n",
    b"\r" + LINE[:20] + b"\r\n",
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: ascii(damage[:20]))
@pytest.mark.parametrize("followed", [True, False], ids=["in the middle", "last"])
def test_a_journal_is_read_up_to_a_damaged_line_and_the_rest_set_aside(tmp_path, capsys, damage, followed):
    path = tmp_path / "j"
    study = study_in(path)
    study.tell(study.ask(), 3.0)
    sound = path.read_bytes()
    rest = damage + (LINE if followed else b"")
    path.write_bytes(sound + rest)
    mend(path)
    assert path.read_bytes() == sound
    (aside,) = damaged_copies(path)
    assert aside.name == "j.damaged-1"
    assert aside.read_bytes() == rest
    line = sound.count(b"\n") + 1
    told = f"j is damaged from line {line} on: it is read up to there, and the rest is set aside in {aside.name}.\n"
    assert capsys.readouterr().err == told
    again = study_in(path)
    again.tell(again.ask(), 1.0)
    assert [trial.value for trial in reread(path).trials] == [3.0, 1.0]
    path.write_bytes(path.read_bytes() + rest)
    mend(path)
    assert [copy.name for copy in damaged_copies(path)] == ["j.damaged-1", "j.damaged-2"]


@pytest.mark.parametrize("content", [b"\x80\x02binary", b"\0" * 4096, b"{}", b"[]"], ids=ascii)
def test_a_journal_that_is_something_else_is_set_aside(tmp_path, capsys, content):
    path = tmp_path / "j"
    path.write_bytes(content)
    mend(path)
    assert path.read_bytes() == b""
    assert [copy.read_bytes() for copy in damaged_copies(path)] == [content]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sound_journal_is_left_alone(tmp_path, capsys):
    path = tmp_path / "j"
    study = study_in(path)
    for value in range(3):
        study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), value)
    before = path.read_bytes()
    mend(path)
    assert path.read_bytes() == before
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [path]


APPEND = """
import sys
from pathlib import Path
from bnlab.search.study.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    try:
        log = {"op_code": 8, "worker_id": sys.argv[2], "trial_id": number, "user_attr": {"x": "y" * 500}}
        journal.append_logs([log] * 3)
    except OSError:
        print("full", flush=True)
print("done", flush=True)
"""


def test_processes_that_fill_a_disk_and_are_killed_leave_whole_lines(tmp_path):
    """Three write at once; one of them is killed in the middle, and the disk is full for a while."""
    with tmpfs(tmp_path / "disk", 1 << 20) as disk:
        path = disk / "j"
        command = [sys.executable, "-c", APPEND, str(path)]
        writers = [
            subprocess.Popen([*command, f"w{name}", "1500"], stdout=subprocess.PIPE, text=True) for name in range(3)
        ]
        for writer in writers[:2]:
            assert writer.stdout.readline() == "full\n"
        writers[2].send_signal(signal.SIGKILL)
        for writer in writers:
            writer.communicate()
        journal = Journal(path)
        logs = list(journal.read_logs(0))
        by_writer = {name: [line["trial_id"] for line in logs if line["worker_id"] == name] for name in ("w0", "w1")}
        for numbers in by_writer.values():
            assert numbers == sorted(numbers)
            assert all(numbers.count(number) == 3 for number in set(numbers))  # all of an append, or nothing


def test_a_reader_waits_for_whoever_takes_a_write_back(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append_logs([log(0)])
    holder = f"""
import fcntl, os, sys, time
file = os.open({str(path)!r}, os.O_RDWR | os.O_APPEND)
fcntl.flock(file, fcntl.LOCK_EX)
size = os.fstat(file).st_size
os.write(file, b'{{"half": 1}}\\n{{"ha')
print("written", flush=True)
time.sleep(0.3)
os.ftruncate(file, size)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    start = time.monotonic()
    assert list(journal.read_logs(0)) == [log(0)]
    assert time.monotonic() - start > 0.05
    process.communicate()
