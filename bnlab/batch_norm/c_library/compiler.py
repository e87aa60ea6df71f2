"""Find and call the C compiler of this machine."""

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bnlab.batch_norm.c_library import guarded

__all__ = ["CompilationError", "NoCompilerError", "build", "command", "fingerprint"]

# The last two let loops with a square root or a conditional be vectorized; no result changes.
FLAGS = ["-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
# The first one that the compiler and the processor support is used. Vectors of 512 bits are whole cache lines, which is
# faster on large batches (bnlab/bench/records/batch_norm.md).
NATIVE: tuple[list[str], ...] = (
    ["-march=native", "-mprefer-vector-width=512"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)


class NoCompilerError(Exception):
    """No C compiler was found, and `$CC` does not name one."""


class CompilationError(Exception):
    """The compiler did not build a working library."""


def command() -> list[str]:
    """Return the compiler's command: `$CC`, or else the first compiler found.

    Raises:
        NoCompilerError: there is none.
        CompilationError: `$CC` is no command.
    """
    if os.name != "posix":
        raise NoCompilerError("compiled code is checked and locked in POSIX's way")
    given = os.environ.get("CC", "")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise CompilationError(f"CC must be a command, but is {given!r}: {error}") from None
    if words:
        if shutil.which(words[0]) is None:
            raise CompilationError(f"CC must be a command that can be run, but is {given!r}")
        return words
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):  # a C compiler that pip can install
        return [sys.executable, "-P", "-m", "ziglang", "cc"]  # -P: never from the current folder
    raise NoCompilerError("no C compiler (cc, gcc, clang) was found; `pip install bnlab[fast]` brings one")


def fingerprint(words: Sequence[str]) -> str:
    """Identify all that the result depends on besides the sources; a replaced compiler counts as another one."""
    files = [os.path.realpath(path) for word in words if (path := shutil.which(word))]
    versions = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    return repr((*words, versions, FLAGS, NATIVE, processor()))


@cache
def processor() -> str:
    """Identify the processor for -march=native, because different machines may share a home folder."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(8192).split("\n\n")[0]
        return "".join(line for line in first.splitlines() if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.machine() + platform.processor()


def build(words: Sequence[str], source: Path, check: Path, folder: Path, seconds: float) -> Path:
    """Build a library in `folder` and run `check` on it, in a separate process because wrong code may crash.

    Raises:
        CompilationError: no library that was built passes the check.
    """
    end = time.monotonic() + seconds
    library, problem = folder / "library.so", ""
    for native in NATIVE:
        library.unlink(missing_ok=True)
        compiling = [*words, *FLAGS, *native, "-o", str(library), str(source), "-lm"]
        checking = [sys.executable, "-I", "-S", str(check), str(library)]
        for step, called in (("compiler", compiling), ("self-test", checking)):
            try:
                status, output = guarded.run(called, folder, max(end - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                raise CompilationError(f"the {step} did not end within {seconds:g} s") from None
            except OSError as error:
                raise CompilationError(f"the {step} did not run: {error}") from None
            if not status and not (library.is_file() and library.stat().st_size):
                status, output = 1, "it printed nothing"
            if status:
                problem = f"the {step} ended with {status}: {essence(output)}"
                break
        else:
            return library
    raise CompilationError(problem)


def essence(output: str) -> str:
    """Return the line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    line = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it printed nothing")
    return line[:300]
