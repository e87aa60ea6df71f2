"""The C compiler of this machine: which one it is, and how it is called."""

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

# The last two let loops with a square root or a choice run in vectors; no result changes.
FLAGS = ["-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
# The first that the compiler and the processor know. Vectors of 512 bits are whole cache lines, which tells
# on large batches (bnlab/bench/records/batch_norm.md).
NATIVE: tuple[list[str], ...] = (
    ["-march=native", "-mprefer-vector-width=512"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)


class NoCompilerError(Exception):
    """Nothing on this machine compiles C, and nobody has said that something does."""


class CompilationError(Exception):
    """The compiler does not make a library that works."""


def command() -> list[str]:
    """How the compiler is called: `$CC`, else what is found.

    Raises:
        NoCompilerError, CompilationError
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
        return [sys.executable, "-P", "-m", "ziglang", "cc"]  # -P: not one that lies in the current folder
    raise NoCompilerError("no C compiler (cc, gcc, clang) was found; `pip install bnlab[fast]` brings one")


def fingerprint(words: Sequence[str]) -> str:
    """Everything besides the sources that the result depends on. A compiler that was replaced is another one."""
    files = [os.path.realpath(path) for word in words if (path := shutil.which(word))]
    versions = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    return repr((*words, versions, FLAGS, NATIVE, processor()))


@cache
def processor() -> str:
    """What -march=native depends on: a home folder is shared between machines that differ."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(8192).split("\n\n")[0]
        return "".join(line for line in first.splitlines() if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.machine() + platform.processor()


def build(words: Sequence[str], source: Path, check: Path, folder: Path, seconds: float) -> Path:
    """A library in `folder` that `check` has found to work, in a process of its own: wrong code may crash.

    Raises:
        CompilationError
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
                status, output = 1, "it wrote nothing"
            if status:
                problem = f"the {step} ended with {status}: {essence(output)}"
                break
        else:
            return library
    raise CompilationError(problem)


def essence(output: str) -> str:
    """The line that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    line = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")
    return line[:300]
