"""`python -m bnlab.bench batch_norm`: compare our batch norm with torch's in time and memory.

Times are those of the layer's forward and backward in training, in fp32 and microseconds: medians of interleaved
rounds. The column "copy" is the time of copying the data once into existing memory; forward and backward must pass over
the data 8 times, which is 4 copies. `--exactness` compares errors instead: normwise, max |error| / max |reference|,
against float64.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bnlab.batch_norm import BatchNorm1d, use_kernel
from bnlab.batch_norm.back_ends import kernel
from bnlab.bench.interleaved import interleaved_medians
from bnlab.mistakes.argument_parser import ArgumentParser

__all__ = ["bytes_kept", "errors", "main", "peak_bytes"]

SHAPES = ((60, 100), (64, 256), (256, 1024), (1024, 1024), (8192, 256), (65536, 256), (64, 128, 256))
EXACTNESS_N = (64, 8192, 2**20)
EXACTNESS_MEANS = (0.0, 1e2, 1e4, 1e6)

Step = Callable[[], object]


def main(argv: list[str]) -> None:
    parser = ArgumentParser(prog="python -m bnlab.bench batch_norm", description=__doc__)
    parser.add_argument("--exactness", action="store_true", help="errors against float64 instead of times")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}), help="default: 1 and all"
    )
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=40, help="timed rounds per shape (default 40)")
    parser.add_argument("--shapes", nargs="+", help="such as 64x256 64x128x256 (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--samples", type=int, nargs="+", default=EXACTNESS_N, help="batch sizes of --exactness (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.exactness:
        console.print(exactness_table(options.samples))
        return
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes] if options.shapes else SHAPES
    by = "by the kernel" if options.device == "cpu" and kernel.is_available() else "by plain torch operations"
    console.print(f"torch {torch.__version__}, {options.device}; ours runs {by}.")
    before = torch.get_num_threads()
    try:
        for threads in options.threads if options.device == "cpu" else [before]:
            torch.set_num_threads(threads)
            for mode in options.modes:
                console.print(time_table(shapes, mode, threads, options.rounds, options.device))
    finally:
        torch.set_num_threads(before)
    if options.device == "cpu":
        console.print(memory_table(shapes))


# ---- time ------------------------------------------------------------------------------------------------------------


def time_table(shapes: Iterable[tuple[int, ...]], mode: str, threads: int, rounds: int, device: str) -> Table:
    names = ["torch", "ours", "plain"] if mode == "eager" else ["torch", "ours", "torch compiled", "ours compiled"]
    ratios = (
        {"ours / torch": ("ours", "torch"), "plain / torch": ("plain", "torch")}
        if mode == "eager"
        else {
            "compiled / torch compiled": ("ours compiled", "torch compiled"),
            "compiled / torch": ("ours compiled", "torch"),
        }
    )
    table = Table(title=f"forward + backward, µs: {mode}, {threads} thread{'s' * (threads > 1)}, fp32")
    for column in ("shape", "copy", *names, *ratios):
        table.add_column(column, justify="right")
    products = dict.fromkeys(ratios, 0.0)
    count = 0
    for shape in shapes:
        seconds = time_shape(shape, mode, rounds, device)
        found = {name: seconds[over] / seconds[under] for name, (over, under) in ratios.items()}
        for name, ratio in found.items():
            products[name] += math.log(ratio)
        count += 1
        times = [f"{seconds[name] * 1e6:.1f}" for name in ("copy", *names)]
        table.add_row("x".join(map(str, shape)), *times, *(f"{ratio:.2f}" for ratio in found.values()))
    table.add_section()
    means = [f"{math.exp(total / count):.2f}" for total in products.values()]
    table.add_row("geometric mean", "", *[""] * len(names), *means)
    return table


def time_shape(shape: tuple[int, ...], mode: str, rounds: int, device: str) -> dict[str, float]:
    """Return the seconds per step of every candidate."""
    x = torch.randn(shape, device=device, requires_grad=True)
    g, into = torch.randn(shape, device=device), torch.empty(shape, device=device)
    torchs, ours = (cls(shape[1], device=device) for cls in (nn.BatchNorm1d, BatchNorm1d))
    candidates: dict[str, Step] = {"copy": lambda: into.copy_(g), "torch": step(torchs, x, g), "ours": step(ours, x, g)}
    if mode == "eager":
        plain = step(BatchNorm1d(shape[1], device=device), x, g)

        def without_kernel() -> None:
            with use_kernel(False):
                plain()

        candidates["plain"] = without_kernel
    else:
        torch.compiler.reset()
        for name, cls in {"torch compiled": nn.BatchNorm1d, "ours compiled": BatchNorm1d}.items():
            candidates[name] = step(torch.compile(cls(shape[1], device=device), fullgraph=True), x, g)
    # Several small steps are timed together; otherwise the clock and cold caches would dominate.
    repeats = max(1, 200_000 // x.numel())
    repeated = {name: repeat(candidate, repeats, device) for name, candidate in candidates.items()}
    warmups = 1 if x.numel() > 1e7 else 3
    medians = interleaved_medians(repeated, num_rounds=rounds, num_warmups=warmups)
    return {name: seconds / repeats for name, seconds in medians.items()}


def step(layer: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Step:
    parameters = list(layer.parameters()) if isinstance(layer, nn.Module) else []

    def run() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        layer(x).backward(g)

    return run


def repeat(candidate: Step, repeats: int, device: str) -> Step:
    def run() -> None:
        for _ in range(repeats):
            candidate()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory_table(shapes: Iterable[tuple[int, ...]]) -> Table:
    table = Table(title="memory of forward + backward, MiB, fp32, CPU, eager")
    for column in (
        "shape",
        "kept: torch",
        "ours",
        "plain",
        "peak: torch",
        "ours",
        "plain",
        "ours / torch",
        "plain / torch",
    ):
        table.add_column(column, justify="right")
    for shape in shapes:
        kept, peak = {}, {}
        for name, cls in (("torch", nn.BatchNorm1d), ("ours", BatchNorm1d), ("plain", BatchNorm1d)):
            with use_kernel(name != "plain"):
                layer = cls(shape[1])
                kept[name], peak[name] = bytes_kept(layer, shape), peak_bytes(layer, shape)
        table.add_row(
            "x".join(map(str, shape)),
            *(f"{kept[name] / 2**20:.3f}" for name in kept),
            *(f"{peak[name] / 2**20:.3f}" for name in peak),
            *(f"{peak[name] / peak['torch']:.2f}" for name in ("ours", "plain")),
        )
    return table


def bytes_kept(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the bytes of the distinct tensors that forward keeps for backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(shape, requires_grad=True))
    return sum(kept.values())


def peak_bytes(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Measure the peak of bytes in tensors, from before forward to after backward."""
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    with (
        silent_stderr(),  # the profiler reports its own starts and stops there
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        layer(x).backward(g)
    now = peak = 0
    assert profile.profiler is not None
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak + x.nbytes + g.nbytes


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Silence the file descriptor, since C++ does not write to Python's sys.stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# ---- exactness -------------------------------------------------------------------------------------------------------


def exactness_table(numbers_of_samples: Iterable[int]) -> Table:
    table = Table(title="normwise error against float64: y / dx / dweight, fp32, std 1, worst of 3 seeds")
    for column in ("N", "mean", "torch.nn.BatchNorm1d", "ours", "ours, plain torch"):
        table.add_column(column, justify="right")
    for num_samples in numbers_of_samples:
        for mean in EXACTNESS_MEANS:
            cells = []
            for name, cls in (("torch", nn.BatchNorm1d), ("ours", BatchNorm1d), ("plain", BatchNorm1d)):
                with use_kernel(name != "plain"):
                    seeds = range(3 if num_samples < 2**20 else 1)
                    found = [errors(cls, num_samples, mean, seed) for seed in seeds]
                cells.append(" / ".join(f"{max(column):.0e}" for column in zip(*found, strict=True)))
            table.add_row(f"{num_samples}", f"{mean:g}", *cells)
        table.add_section()
    return table


def errors(cls: type[nn.Module], num_samples: int, mean: float, seed: int) -> tuple[float, float, float]:
    """Return max |error| / max |reference| of y, dL/dx and dL/dweight, against the formula in float64."""
    generator = torch.Generator().manual_seed(seed)
    num_features = 64 if num_samples < 2**20 else 8
    x, g = (torch.randn(num_samples, num_features, generator=generator) for _ in range(2))
    x += mean
    weight = torch.rand(num_features, generator=generator) + 0.5
    layer = cls(num_features)
    parameter = layer.get_parameter("weight")
    parameter.data.copy_(weight)
    x.requires_grad_()
    y = layer(x)
    found = (y.detach(), *torch.autograd.grad(y, [x, parameter], g))
    exact_x, exact_g = x.detach().double(), g.double()
    centered = exact_x - exact_x.mean(0)
    inv_std = 1 / (centered.square().mean(0) + 1e-5).sqrt()
    x_hat = centered * inv_std
    grad_weight = (exact_g * x_hat).sum(0)
    grad_x = weight * inv_std * (exact_g - exact_g.mean(0) - x_hat * (grad_weight / num_samples))
    exact = (weight * x_hat, grad_x, grad_weight)
    y_error, x_error, weight_error = (
        float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)
    )
    return y_error, x_error, weight_error
