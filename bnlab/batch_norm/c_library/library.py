"""Load a C source as a library: from the cache if the cached file is intact, otherwise by compiling it.

The name of a cached library holds a hash of what it was made from and one of its content. The library gets that name
after it has passed its check in a separate process. Before every use its content is compared with the name, because
running a damaged file would end the process with a signal.
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

SECONDS = 120  # for the compiler; other processes wait for it half a minute longer
REMEMBERED = 3600  # seconds before a slow failure is retried
LONG = 1  # seconds; a faster failure is always retried, because its cause may be gone

warned = False


def load(source: Path, check: Path, symbols: Sequence[str], otherwise: str) -> ctypes.CDLL | None:
    """Return the library compiled from a C source, or None if it cannot be built.

    If many processes need it at once, one compiles and the others wait: without the library they would round
    differently.

    Args:
        source: the C file; it may include others from its folder.
        check: a program that takes the library's path and exits with 0 if the library works. It runs once, without any
            packages, after compilation.
        symbols: the functions that the library must have.
        otherwise: what happens without the library. A process warns of it once; if there is no compiler, it is only
            logged as information.
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
                if library := cached(folder, name, symbols):  # another process was first
                    return library
                forget_damaged(folder, name)
                build(folder, name, words, source, check, alone=alone)
                if library := cached(folder, name, symbols):
                    return library
        except TimeoutError as error:
            raise CompilationError(str(error)) from None
        except OSError as error:
            problem = f"it cannot be kept: {error}"
            log.info("A folder for compiled code is skipped: %s", error)
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
    """Remove files whose content does not match their name; an intact one may still suit another machine."""
    for path in folder.glob(f"{name}-*.so"):
        try:
            is_whole = path.stem == f"{name}-{digest(folders.read_trusted(path))}"
        except OSError:
            is_whole = False
        if not is_whole:
            path.unlink()


def build(folder: Path, name: str, words: Sequence[str], source: Path, check: Path, *, alone: bool) -> None:
    """Build a working library in the folder, named after its content.

    Raises:
        CompilationError: the build fails, or failed a while ago.
        OSError: the folder cannot hold it.
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
