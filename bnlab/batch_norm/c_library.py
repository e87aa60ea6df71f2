"""C sources of this package as shared libraries: compiled once a machine with the compiler at hand, kept on disk.

They are kept in `$BNLAB_CACHE`, else `$XDG_CACHE_HOME/bnlab`, else `~/.cache/bnlab`; where that cannot be written, in a
temporary folder for this process alone.
"""

import atexit
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["compiled"]

# The last two let loops with a square root or a choice run in vectors; no result changes.
FLAGS = ["-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
# The first that the compiler and the processor know. Vectors of 512 bits are whole cache lines: 15 % on large batches.
NATIVE: tuple[list[str], ...] = (
    ["-march=native", "-mprefer-vector-width=512"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)


def compiled(source: Path) -> Path:
    """The shared library, from the cache or compiled into it.

    Its name says the sources in the folder of this one, which may include them, the flags and the processor.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled here.
    """
    command = compiler()
    texts = [path.read_text() for path in sorted(source.parent.glob("*.c"))]
    key = hashlib.sha256("\0".join([*texts, *command, *FLAGS, str(NATIVE), processor()]).encode())
    for folder in cache_folders():
        library = folder / f"{source.parent.name}-{source.stem}-{key.hexdigest()[:16]}.so"
        if library.exists():
            return library
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as file:
                unfinished = Path(file.name)
        except OSError:
            continue
        try:
            for native in NATIVE:
                flags = [*FLAGS, *native, "-o", str(unfinished), str(source), "-lm"]
                done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120, check=False)
                if done.returncode == 0:
                    # Processes that compile at the same time each put a whole file there.
                    os.replace(unfinished, library)
                    return library
        finally:
            unfinished.unlink(missing_ok=True)
        raise OSError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    raise OSError(f"no folder for the compiled {source.name} can be written")


def compiler() -> list[str]:
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):  # a C compiler that pip can install
        return [sys.executable, "-m", "ziglang", "cc"]
    raise OSError("no C compiler (cc, gcc, clang) was found; `pip install bnlab[fast]` brings one")


@cache
def processor() -> str:
    """What -march=native depends on: a home folder is shared between machines that differ."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(8192).split("\n\n")[0]
        return "".join(line for line in first.splitlines() if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.machine() + platform.processor()


def cache_folders() -> Iterator[Path]:
    if folder := os.environ.get("BNLAB_CACHE"):
        yield Path(folder)
    elif folder := os.environ.get("XDG_CACHE_HOME"):
        yield Path(folder) / "bnlab"
    else:
        with suppress(RuntimeError):  # no home
            yield Path.home() / ".cache" / "bnlab"
    temporary = tempfile.mkdtemp(prefix="bnlab-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    yield Path(temporary)
