"""The CPU kernel, `kernel.c`: compiled once per machine, cached on disk, and called through ctypes.

Without a compiler, other back ends compute the same. `BNLAB_KERNEL=0` in the environment, or `with use_kernel(False):`,
selects them too. `c_library/folders.py` says where the compiled file is cached.

On small shapes most of the time goes to Python and the autograd engine. On large ones the sums wait for memory unless
the next rows are prefetched, and results that the cache could not hold bypass it. `bnlab/bench/records/batch_norm.md`
has the alternatives that were tried: ATen's operations in place or blocked, Numba and Inductor.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bnlab.batch_norm import c_library
from bnlab.batch_norm.back_ends import tensors_in_c
from bnlab.batch_norm.back_ends.kernel_check import Problem, is_laid_out_in

__all__ = ["SMALL", "is_available", "knows_tensors", "num_threads", "run_of", "use_kernel"]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.c")

SMALL = 32768  # so few numbers are for one thread (`run` of kernel.c), and how many there are need not be asked

Run = Callable[[Problem], None]
run_of: dict[torch.dtype, Run] = {}
state = {"wanted": os.environ.get("BNLAB_KERNEL", "1") not in ("0", "off", "false"), "loaded": False, "forked": False}
run_tensors: Callable[[bytes], int] | None = None
loading = threading.Lock()


@contextmanager
def use_kernel(wanted: bool) -> Iterator[None]:
    """Within the block, run the CPU kernel where it applies (True), or plain torch operations everywhere (False)."""
    before, state["wanted"] = state["wanted"], wanted
    try:
        yield
    finally:
        state["wanted"] = before


def is_available() -> bool:
    """Whether the kernel is wanted and could be compiled and loaded; the first call does both."""
    if state["wanted"] and not state["loaded"]:
        with loading:  # other threads wait: without it they would round differently
            if not state["loaded"]:
                load()
                state["loaded"] = True
    return state["wanted"] and bool(run_of)


def knows_tensors() -> bool:
    """Whether the kernel is there, and can check for itself what a tensor is."""
    return bool(state["wanted"] and (state["loaded"] or is_available()) and run_tensors is not None)


def load() -> None:
    global run_tensors
    symbols = {torch.float32: "run_float", torch.float64: "run_double"}
    library = c_library.load(
        SOURCE,
        SOURCE.with_name("kernel_check.py"),
        ["configure", "configure_tensors", "run_tensors", "size_of_problem", "size_of_tensors", *symbols.values()],
        otherwise="Batch norm runs as plain torch operations",
    )
    if library is None:
        return
    if not is_laid_out_in(library):
        log.warning("Batch norm runs as plain torch operations: the kernel expects a problem of another size.")
        return
    try:
        # torch has loaded its OpenMP for the whole process; a second one would fight it for the cores.
        openmp = ctypes.CDLL(None)
        library.configure(openmp.GOMP_parallel, openmp.omp_get_thread_num, openmp.omp_get_num_threads)
    except (AttributeError, OSError, TypeError):
        log.info("The batch norm kernel runs on one thread: torch's OpenMP has no GOMP_parallel.")
    for dtype, name in symbols.items():
        run = getattr(library, name)
        run.argtypes, run.restype = [ctypes.POINTER(Problem)], None
        run_of[dtype] = run
    run_tensors = tensors_in_c.connect(library)
    if hasattr(os, "register_at_fork"):
        # A forked child has none of OpenMP's threads and would wait for them for ever.
        os.register_at_fork(after_in_child=lambda: state.update(forked=True))


def num_threads() -> int:
    return 1 if state["forked"] else torch.get_num_threads()
