"""Compiled C code: damaged, foreign or wrong code is not loaded, one process compiles for all, and nothing is left."""

import ctypes
import importlib.util
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bnlab.batch_norm.c_library import folders, library
from bnlab.batch_norm.c_library.library import load

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or mount")

SOURCE = """
#ifndef ANSWER
#define ANSWER 42
#endif
int answer(void) { return ANSWER; }
"""
CHECK = """
import ctypes, sys
if ctypes.CDLL(sys.argv[1]).answer() != 42:
    sys.exit("another answer")
"""
# Imports the loader alone, without torch: many processes are started here.
PROGRAM = f"""
import os, signal, sys, types
from pathlib import Path
package = types.ModuleType("bnlab.batch_norm")
package.__path__ = [{str(Path(library.__file__).parent.parent)!r}]
sys.modules["bnlab.batch_norm"] = package
from bnlab.batch_norm.c_library.library import load
def found(name="answer"):
    source = Path(sys.argv[1], name + ".c")
    return load(source, source.with_name("answer_check.py"), [name], "Python answers")
"""
SHOW = "\nanswer = found()\nprint(answer and answer.answer(), answer and answer._name)"
NOBODY = 65534


@dataclass
class Place:
    """A source that takes no time to compile, and where everything that is made from it goes."""

    root: Path

    def __post_init__(self) -> None:
        for folder in (self.sources, self.temporary):
            folder.mkdir()
        (self.sources / "answer.c").write_text(SOURCE)
        (self.sources / "answer_check.py").write_text(CHECK)

    @property
    def sources(self) -> Path:
        return self.root / "sources"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    @property
    def second(self) -> Path:
        """Where libraries are kept if the cache cannot."""
        return self.temporary / f"bnlab-{os.geteuid()}"

    @property
    def calls(self) -> int:
        """How often the `compiler` was called."""
        return len(list(self.root.glob("call-*")))

    def compiler(self, script: str) -> str:
        """A compiler that counts its calls; $out is the library that it is to write."""
        path = self.root / "compiler"
        path.write_text(f"""#!/bin/bash
mktemp -q {self.root}/call-XXXXXX > /dev/null
for word; do [ "$last" = -o ] && out=$word; last=$word; done
{script}
""")
        path.chmod(0o755)
        return str(path)

    def load(self, *symbols: str) -> ctypes.CDLL | None:
        check = self.sources / "answer_check.py"
        return load(self.sources / "answer.c", check, ["answer", *symbols], "Python answers")

    def start(self, program: str = SHOW, **environment: str) -> subprocess.Popen[str]:
        everything = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "BNLAB_CACHE": str(self.cache),
            "TMPDIR": str(self.temporary),
            **environment,
        }
        command = [sys.executable, "-S", "-c", PROGRAM + program, str(self.sources)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.root, env=everything, text=True, **pipes)

    def run(self, program: str = SHOW, **environment: str) -> tuple[str, str]:
        with self.start(program, **environment) as process:
            printed, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        return printed.strip(), errors


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path)
    monkeypatch.setenv("BNLAB_CACHE", str(place.cache))
    monkeypatch.setattr(tempfile, "tempdir", str(place.temporary))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library, "warned", False)
    return place


@pytest.fixture
def shared_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Which another user can read."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        place = Place(Path(folder))
        place.temporary.chmod(0o1777)
        yield place


def answer(loaded: ctypes.CDLL | None) -> int:
    assert loaded is not None
    return loaded.answer()


def folder_of(loaded: ctypes.CDLL | None) -> Path:
    assert loaded is not None
    return Path(loaded._name).parent


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


def test_no_umask_makes_what_others_can_write(place: Place) -> None:
    before = os.umask(0)
    try:
        assert answer(place.load()) == 42
    finally:
        os.umask(before)
    assert folder_of(place.load()) == place.cache
    assert not any(path.stat().st_mode & 0o022 for path in (place.cache, *place.cache.iterdir()))


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


# ---- many processes, kills ----


def test_of_eight_processes_one_compiles(place: Place) -> None:
    compiler = place.compiler('sleep 1; exec cc "$@"')
    processes = [place.start(CC=compiler) for _ in range(8)]
    printed = {process.communicate(timeout=60) for process in processes}
    (kept,) = place.cache.iterdir()
    assert printed == {(f"42 {kept}\n", "")}
    assert place.calls == 1


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


# ---- places ----


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


AS_OTHER = "os.setgroups([]); os.setgid({user}); os.setuid({user})" + SHOW


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
