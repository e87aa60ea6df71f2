"""A C library for tests that answers 42, and processes that load nothing else."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bnlab.batch_norm.c_library import library
from bnlab.batch_norm.c_library.library import load

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

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


def prepared_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place in which this process, too, keeps what it compiles."""
    place = Place(root)
    monkeypatch.setenv("BNLAB_CACHE", str(place.cache))
    monkeypatch.setattr(tempfile, "tempdir", str(place.temporary))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library, "warned", False)
    return place


def answer(loaded: ctypes.CDLL | None) -> int:
    assert loaded is not None
    return loaded.answer()


def folder_of(loaded: ctypes.CDLL | None) -> Path:
    assert loaded is not None
    return Path(loaded._name).parent
