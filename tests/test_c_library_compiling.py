"""Finding and calling the C compiler: $CC, habits of compilers, and compilers that fail, hang or are killed."""

import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from answer_library import Place, answer, needs_compiler, prepared_place

from bnlab.batch_norm.c_library import library

pytestmark = needs_compiler


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return prepared_place(tmp_path, monkeypatch)


@pytest.mark.parametrize("command", ["cc '", "no-such-compiler", "/", 'cc "-DANSWER=41'])
def test_a_cc_that_is_no_command_is_told_in_one_line(
    place: Place, command: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", command)
    assert place.load() is None
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "CC must be a command" in record.getMessage()
    assert repr(command) in record.getMessage()


WORKING = {
    "empty": "",
    "with arguments": "cc -DANSWER=42 -g0",
    "talks": 'yes | head -c 1000000; printf "\\xe9\\n" >&2; exec cc "$@"',
    "leaves a process behind": 'sleep 1000 & exec cc "$@"',
    "knows few flags": '[[ "$*" == *native* ]] && exit 1; exec cc "$@"',
    "makes code that crashes": '[[ "$*" == *native* ]] && exec cc "-DANSWER=*(int *)8" "$@"; exec cc "$@"',
}


@pytest.mark.parametrize("kind", WORKING)
def test_compilers_with_habits_serve(place: Place, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = WORKING[kind]
    monkeypatch.setenv("CC", given if kind in ("empty", "with arguments") else place.compiler(given))
    assert answer(place.load()) == 42
    assert len(list(place.cache.iterdir())) == 1


def test_without_a_compiler_nobody_is_warned(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if importlib.util.find_spec("ziglang"):
        pytest.skip("pip has installed a compiler")
    monkeypatch.setenv("PATH", str(place.root))
    with caplog.at_level("INFO"):
        assert place.load() is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "no C compiler" in record.getMessage()


def test_a_compiler_from_the_current_folder_is_not_run(place: Place) -> None:
    (place.root / "ziglang.py").write_text("open('was-run', 'w')")
    printed, _ = place.run(PATH=str(place.root))
    assert printed == "None None"
    assert not (place.root / "was-run").exists()


# Its child goes on when it is killed alone.
SLOW = "sleep 1000 & echo $! > {root}/sleeping; : > ${{TMPDIR}}/left.s; wait"


def sleeping(place: Place) -> int:
    path = place.root / "sleeping"
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_compiler_does_not_outlive_its_process(place: Place, signal_number: signal.Signals) -> None:
    with place.start(CC=place.compiler(SLOW.format(root=place.root))) as process:
        compiler = sleeping(place)
        assert is_running(compiler)
        # Another waits for it; it is not to be left waiting, and does what the first did not.
        with place.start(CC=place.compiler('exec cc "$@"')) as next_process:
            process.send_signal(signal_number)
            process.communicate()
            wait_for(lambda: not is_running(compiler))
            assert next_process.communicate(timeout=60)[0].startswith("42 ")
    wait_for(lambda: len(list(place.cache.iterdir())) == 1)


def test_a_compiler_does_not_outlive_its_supervisor(place: Place) -> None:
    with place.start(CC=place.compiler(SLOW.format(root=place.root))) as process:
        compiler = sleeping(place)
        supervisor = os.getsid(compiler)
        assert supervisor not in (process.pid, os.getsid(0))
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda: not is_running(compiler))
        printed, errors = process.communicate(timeout=60)
        assert printed == "None None\n"
        assert "killed from outside" in errors


def test_what_takes_too_long_is_ended_and_remembered(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "SECONDS", 3)
    monkeypatch.setenv("CC", place.compiler(SLOW.format(root=place.root)))
    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(place.load) for _ in range(2)]] == [None, None]
    assert place.calls == 1
    assert not is_running(sleeping(place))
    (failure,) = place.cache.iterdir()
    assert failure.suffix == ".failed"
    assert "did not end within 3 s" in caplog.text
    assert "minutes ago" in place.run(CC=os.environ["CC"])[1]  # and told by others
    assert place.calls == 1
    long_ago = time.time() - 2 * 3600
    os.utime(failure, (long_ago, long_ago))
    assert place.load() is None
    assert place.calls == 2
    monkeypatch.undo()
    monkeypatch.setenv("BNLAB_CACHE", str(place.cache))
    monkeypatch.setenv("CC", place.compiler('exec cc "$@"'))  # another one under the same name
    assert answer(place.load()) == 42
    assert place.calls == 3
