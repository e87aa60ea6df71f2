"""Loading compiled C code: one process compiles for all, and damaged, foreign or wrong code is not loaded."""

import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from answer_library import SHOW, Place, answer, folder_of, needs_compiler, prepared_place

from bnlab.batch_norm.c_library import library

pytestmark = needs_compiler


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return prepared_place(tmp_path, monkeypatch)


def test_a_library_is_compiled_once_and_kept_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", place.compiler('exec cc "$@"'))
    with ThreadPoolExecutor(3) as pool:  # at once, as processes that start together do
        answers = [pool.submit(place.load) for _ in range(3)]
        assert [answer(future.result()) for future in answers] == [42] * 3
    (kept,) = place.cache.iterdir()
    assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(place.cache.stat().st_mode)) == (0o644, 0o755)
    assert folder_of(place.load()) == place.cache
    assert place.calls == 1
    assert list(place.cache.iterdir()) == [kept]
    assert not list(place.temporary.iterdir())


def test_of_eight_processes_one_compiles(place: Place) -> None:
    compiler = place.compiler('sleep 1; exec cc "$@"')
    processes = [place.start(CC=compiler) for _ in range(8)]
    printed = {process.communicate(timeout=60) for process in processes}
    (kept,) = place.cache.iterdir()
    assert printed == {(f"42 {kept}\n", "")}
    assert place.calls == 1


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_elsewhere(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    os.truncate(path, 2**40)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": halve,
    "a page": lambda path: os.truncate(path, 4096),
    "empty": lambda path: os.truncate(path, 0),
    "rubbish": lambda path: path.write_bytes(b"rubbish" * 999),
    "one byte": change_a_byte,
    "huge": make_huge,
    "link": link_elsewhere,
    "pipe": make_a_pipe,
    "writable": lambda path: path.chmod(0o666),
}


def test_a_damaged_library_is_compiled_anew(place: Place) -> None:
    # In processes of their own: what this one has loaded must not change.
    printed, _ = place.run()
    for damage in DAMAGES.values():
        (kept,) = place.cache.iterdir()
        damage(kept)
        assert place.run() == (printed, "")
        assert kept.read_bytes().startswith(b"\x7fELF")
        assert list(place.cache.iterdir()) == [kept]


def test_whole_libraries_that_do_not_serve_are_passed_over(place: Place) -> None:
    place.run()
    (kept,) = place.cache.iterdir()
    name = kept.stem.rpartition("-")[0]
    for content in (b"", b"rubbish", math_library().read_bytes()):
        kept.with_name(f"{name}-{library.digest(content)}.so").write_bytes(content)
    kept.unlink()
    assert place.run()[0] == f"42 {kept}"


def math_library() -> Path:
    with open("/proc/self/maps") as maps:
        return Path(next(line.split()[-1] for line in maps if "/libm" in line))


USELESS = {
    "writes nothing": "exit 0",
    "writes an empty file": ': > "$out"',
    "writes rubbish": 'echo rubbish > "$out"',
    "writes half": 'cc "$@" && truncate -s 9000 "$out"',
    "wrong code": 'cc -DANSWER=41 "$@"',
    "crashing code": 'cc "-DANSWER=*(volatile int *)0" "$@"',
    "other symbols": 'cc -Danswer=question "$@"',
    "fails in another encoding": "printf 'error: \\xe9\\xff\\n\\x1b[31mmore\\n' >&2; exit 1",
    "fails at length": "yes error | head -c 1000000; exit 1",
}


@pytest.mark.parametrize("script", USELESS.values(), ids=USELESS)
def test_a_compiler_that_does_not_work_is_told_in_one_line(
    place: Place, script: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", place.compiler(script))
    assert place.load() is None
    assert place.load() is None
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().startswith("Python answers, because answer.c could not be built: the ")
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 500
    assert not list(place.cache.glob("*.so"))
    assert not list(place.cache.glob(".*"))


def test_a_process_warns_once_on_stderr(place: Place) -> None:
    (place.sources / "question.c").write_text("int question(void) { return 0; }")
    printed, errors = place.run("print(found(), found('question'), found())", CC=place.compiler("exit 1"))
    assert printed == "None None None"
    assert len(errors.splitlines()) == 1
    assert "answer.c could not be built" in errors


def test_a_failure_counts_where_children_are_not_waited_for(place: Place) -> None:
    """As in the process that workers are forked from."""
    ignoring = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    assert place.run(ignoring + SHOW, CC=place.compiler("exit 1"))[0] == "None None"
    assert place.run(ignoring + SHOW, CC="cc")[0].startswith("42 ")
