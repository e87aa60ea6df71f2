"""The CPU kernel, `kernel.c`: compiled once a machine with the C compiler at hand, kept on disk, called through ctypes.

Where no compiler is found the formulas in plain torch do the same. `BNLAB_KERNEL=0` in the environment, or
`with use_kernel(False):`, asks for that. The compiled file is kept in `$BNLAB_CACHE`, else `$XDG_CACHE_HOME/bnlab`,
else `~/.cache/bnlab`; where that cannot be written, in a temporary folder for this process alone.
"""

import atexit
import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["backward", "forward", "is_available", "use_kernel"]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ["-O3", "-shared", "-fPIC"]

# `Problem` of kernel.c: 13 pointers, 5 integers, 2 doubles.
pack = struct.Struct("@13P5q2d").pack

Run = Callable[[bytes], None]
run_of: dict[torch.dtype, Run] = {}
state = {"wanted": os.environ.get("BNLAB_KERNEL", "1") not in ("0", "off", "false"), "loaded": False, "forked": False}


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
        state["loaded"] = True
        try:
            load(compiled())
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            log.info("Batch norm runs as plain torch operations, because its CPU kernel could not be built: %s", error)
    return state["wanted"] and bool(run_of)


def load(path: Path) -> None:
    library = ctypes.CDLL(str(path))
    try:
        # torch has loaded its OpenMP for the whole process; a second one would fight it for the cores.
        openmp = ctypes.CDLL(None)
        library.configure(openmp.GOMP_parallel, openmp.omp_get_thread_num, openmp.omp_get_num_threads)
    except (AttributeError, OSError, TypeError):
        log.info("The batch norm kernel runs on one thread: torch's OpenMP has no GOMP_parallel.")
    for dtype, name in {torch.float32: "run_float", torch.float64: "run_double"}.items():
        run = getattr(library, name)
        run.argtypes, run.restype = [ctypes.c_char_p], None
        run_of[dtype] = run
    if hasattr(os, "register_at_fork"):
        # A forked child has none of OpenMP's threads and would wait for them for ever.
        os.register_at_fork(after_in_child=lambda: state.update(forked=True))


def compiled() -> Path:
    """The shared library, from the cache or compiled into it. Its name says the source, the flags and the processor."""
    command = compiler()
    key = hashlib.sha256(
        "\0".join([SOURCE.read_text(), *command, *FLAGS, processor(), sys.version]).encode()
    ).hexdigest()
    for folder in cache_folders():
        library = folder / f"batch_norm-{key[:16]}.so"
        if library.exists():
            return library
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as file:
                unfinished = Path(file.name)
        except OSError:
            continue
        try:
            for native in (["-march=native"], ["-mcpu=native"], []):
                flags = [*FLAGS, *native, "-o", str(unfinished), str(SOURCE), "-lm"]
                done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120, check=False)
                if done.returncode == 0:
                    os.replace(
                        unfinished, library
                    )  # processes that compile at the same time each put a whole file there
                    return library
        finally:
            unfinished.unlink(missing_ok=True)
        raise OSError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    raise OSError("no folder for the compiled kernel can be written")


def compiler() -> list[str]:
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):  # a C compiler that pip can install
        return [sys.executable, "-m", "ziglang", "cc"]
    raise OSError("no C compiler (cc, gcc, clang) was found; `pip install bnlab[fast]` brings one")


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


def sizes(x: Tensor, stack_dims: int) -> tuple[int, int, int, int, int]:
    """K, N, C, L of x (*stack, N, C) or (*stack, N, C, L), and how many threads to use."""
    shape = x.shape
    num_networks = length = 1
    for size in shape[:stack_dims]:
        num_networks *= size
    for size in shape[stack_dims + 2 :]:
        length *= size
    # Asking costs time, and the kernel would not use them.
    threads = 1 if x.numel() <= 32768 or state["forked"] else torch.get_num_threads()
    return num_networks, shape[stack_dims], shape[stack_dims + 1], length, threads


def pointer(values: Tensor | None) -> int:
    return 0 if values is None else values.data_ptr()


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: Tensor | float,
    eps: Tensor | float,
    stack_dims: int,
) -> tuple[Tensor, Tensor]:
    """y, and (2, *stack, C) with the rounded mean and 1 / sqrt(var + eps); the running statistics are updated.

    All tensors are on the CPU, contiguous and of one dtype, float32 or float64.
    """
    y = torch.empty_like(x)
    sizes_of_x = sizes(x, stack_dims)
    num_values = sizes_of_x[0] * sizes_of_x[2]
    statistics = x.new_empty((2, *x.shape[:stack_dims], x.shape[stack_dims + 1]))
    mean = statistics.data_ptr()
    eps_each, eps_number = (eps.data_ptr(), 0.0) if isinstance(eps, Tensor) else (0, eps)
    momentum_each, momentum_number = (momentum.data_ptr(), 0.0) if isinstance(momentum, Tensor) else (0, momentum)
    run_of[x.dtype](
        pack(
            x.data_ptr(),
            0,
            y.data_ptr(),
            pointer(weight),
            pointer(bias),
            0,
            0,
            mean,
            mean + num_values * statistics.itemsize,
            pointer(running_mean),
            pointer(running_var),
            eps_each,
            momentum_each,
            *sizes_of_x,
            eps_number,
            momentum_number,
        )
    )
    return y, statistics


def backward(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    grad_x: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    stack_dims: int,
) -> None:
    """Write dL/dx, dL/dweight and dL/dbias, those that are wanted, from x, dL/dy and what `forward` returned."""
    mean = statistics.data_ptr()
    run_of[x.dtype](
        pack(
            x.data_ptr(),
            grad_y.data_ptr(),
            pointer(grad_x),
            pointer(weight),
            0,
            pointer(grad_weight),
            pointer(grad_bias),
            mean,
            mean + statistics.numel() // 2 * statistics.itemsize,
            0,
            0,
            0,
            0,
            *sizes(x, stack_dims),
            0.0,
            0.0,
        )
    )
