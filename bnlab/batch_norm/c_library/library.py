"""A C source as a library in this process: from the cache if what is there is what was put there, else compiled.

The name of a cached library says what it was made from and, as a hash, what it contains. It gets that name after it has
been tried out in a process of its own, and is read and compared with it before every use: a damaged file would end the
process with a signal when its missing pages are run.
"""

import ctypes
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path

from bnlab.batch_norm.c_library import compiler, folders
from bnlab.batch_norm.c_library.compiler import CompilationError, NoCompilerError

__all__ = ["load"]

log = logging.getLogger(__name__)

SECONDS = 120  # for the compiler; who waits for another process's waits longer
REMEMBERED = 3600  # seconds for which a failure that took long is not repeated
LONG = 1  # seconds; what fails sooner is cheaper to repeat, and the reason may be gone

warned = False


def load(source: Path, check: Path, symbols: Sequence[str], otherwise: str) -> ctypes.CDLL | None:
    """The library compiled from a C source, or None where there is none.

    Of many processes that want it at once one compiles, and the others wait for it as long as it may take: were they to
    go on without, they would round differently.

    Args:
        source: may include others from its folder.
        check: a program that is given the library's path and exits with 0 if the library works. It runs without any
            packages once, after the library was compiled.
        symbols: what the library must have.
        otherwise: what happens without it. A process says so once, as a warning; where nobody has a compiler, to
            those who want to know.
    """
    try:
        return found_or_built(source, check, symbols)
    except NoCompilerError as reason:
        level = logging.INFO
        why = str(reason)
    except (CompilationError, OSError) as reason:
        global warned
        level = logging.INFO if warned else logging.WARNING
        warned = True
        why = str(reason)
    why = "".join(letter if letter.isprintable() else " " for letter in why)
    log.log(level, "%s, because %s could not be built: %s", otherwise, source.name, why)
    return None


def found_or_built(source: Path, check: Path, symbols: Sequence[str]) -> ctypes.CDLL:
    words = compiler.command()
    made_from = hashlib.sha256(compiler.fingerprint(words).encode(errors="surrogateescape"))
    for path in (*sorted(source.parent.glob("*.c")), check):
        made_from.update(hashlib.sha256(path.read_bytes()).digest())
    name = f"{source.parent.name}-{source.stem}-{made_from.hexdigest()[:16]}"
    for folder in folders.trusted(make=False):
        if library := cached(folder, name, symbols):
            return library
    problem = ""
    lasting = (nullcontext(folder) for folder in folders.trusted(make=True))
    places: Iterator[AbstractContextManager[Path]] = chain(lasting, [folders.private()])
    for place in places:
        try:
            with place as folder, folders.locked(folder, SECONDS + 30) as alone:
                if library := cached(folder, name, symbols):  # another process has put it there
                    return library
                forget_damaged(folder, name)
                build(folder, name, words, source, check, alone=alone)
                if library := cached(folder, name, symbols):
                    return library
        except TimeoutError as error:
            raise CompilationError(str(error)) from None
        except OSError as error:
            problem = f"it cannot be kept: {error}"
            log.info("A folder for compiled code is passed over: %s", error)
        else:
            raise CompilationError("what was compiled cannot be loaded")
    raise CompilationError(problem)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def cached(folder: Path, name: str, symbols: Sequence[str]) -> ctypes.CDLL | None:
    for path in sorted(folder.glob(f"{name}-*.so")):
        try:
            if path.stem != f"{name}-{digest(folders.read_trusted(path))}":
                raise OSError(f"{path} is damaged")
            library = ctypes.CDLL(str(path))
            for symbol in symbols:
                getattr(library, symbol)
        except (OSError, AttributeError) as error:
            log.info("A compiled library is not used: %s", error)
        else:
            return library
    return None


def forget_damaged(folder: Path, name: str) -> None:
    """Remove what is not what its name says. What is, but cannot be loaded, may serve another machine."""
    for path in folder.glob(f"{name}-*.so"):
        try:
            is_whole = path.stem == f"{name}-{digest(folders.read_trusted(path))}"
        except OSError:
            is_whole = False
        if not is_whole:
            path.unlink()


def build(folder: Path, name: str, words: Sequence[str], source: Path, check: Path, *, alone: bool) -> None:
    """Put a library that works into the folder, under the name that its content has.

    Raises:
        CompilationError: also where that failed a while ago.
        OSError: the folder does not take it.
    """
    failure = folder / f"{name}.failed"
    recall(failure)
    begun = time.monotonic()
    with folders.scratch_in(folder, alone=alone) as scratch:
        try:
            library = compiler.build(words, source, check, scratch, SECONDS)
        except CompilationError as error:
            folders.room_in(scratch)
            if time.monotonic() - begun > LONG:
                failure.write_bytes(str(error).encode(errors="replace"))
                failure.chmod(0o644)
            raise
        library.chmod(0o644)
        os.replace(library, folder / f"{name}-{digest(library.read_bytes())}.so")
        failure.unlink(missing_ok=True)


def recall(failure: Path) -> None:
    try:
        why = folders.read_trusted(failure).decode(errors="replace")
        age = time.time() - failure.stat().st_mtime
    except OSError:
        return
    if 0 <= age < REMEMBERED:
        raise CompilationError(
            f"{why} ({age / 60:.0f} minutes ago; {failure} says so, and keeps it from being tried again)"
        )
