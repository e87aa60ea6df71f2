"""What `kernel.c` is given, and whether a library compiled from it works: `python kernel_check.py kernel.so`.

As a program it needs no packages, torch least of all, and starts in a moment. Forward and backward of small batches are
compared with the formulas of `formulas.py` in Python's own numbers; wrong code may crash it.
"""

import ctypes
import sys
from math import fsum, sin, sqrt
from typing import Any

__all__ = ["BACKWARD", "FORWARD", "Problem", "is_laid_out_in", "size_in"]

FORWARD, BACKWARD = 0, 1


class Problem(ctypes.Structure):
    """`Problem` of kernel.c, which says what the fields are; a pointer that is not set is NULL."""

    _fields_ = (
        ("direction", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("x", "grad_y", "out", "weight", "bias", "grad_weight", "grad_bias")),
        *((name, ctypes.c_void_p) for name in ("mean", "inv_std", "unbiased_var", "running_mean", "running_var")),
        *((name, ctypes.c_void_p) for name in ("num_batches_tracked", "eps", "momentum")),
        *((name, ctypes.c_int64) for name in ("K", "N", "C", "L", "threads")),
        *((name, ctypes.c_double) for name in ("eps_number", "momentum_number")),
    )


def size_in(library: ctypes.CDLL, structure: str) -> int:
    """How many bytes a structure has in C, which the library says."""
    return ctypes.c_int64.in_dll(library, f"size_of_{structure}").value


def is_laid_out_in(library: ctypes.CDLL) -> bool:
    """Whether C and Python agree on the size of a `Problem`; on the order of its fields, if the results are right."""
    return size_in(library, "problem") == ctypes.sizeof(Problem)


EPS, MOMENTUM = 1e-3, 0.3
# By the C functions' names: the type, and how large an error may be.
NUMBERS = {"float": (ctypes.c_float, 1e-5), "double": (ctypes.c_double, 1e-12)}
# (N, C, L): whole vectors, groups of rows and what is left of them; rows of channels and channels of rows.
SHAPES = ((37, 21, 1), (3, 2, 277))


def main(path: str) -> None:
    library = ctypes.CDLL(path)
    if not is_laid_out_in(library):
        sys.exit(f"the size of a problem in C is {size_in(library, 'problem')}, not {ctypes.sizeof(Problem)}")
    for name, (number, precision) in NUMBERS.items():
        for shape in SHAPES:
            for what, found, expected in compared(getattr(library, f"run_{name}"), number, *shape):
                for a, b in zip(found, expected, strict=True):
                    if not abs(a - b) <= precision * max(abs(b), 1):
                        sys.exit(f"{what} of a {name} batch {shape} is {a}, not {b}")


def compared(run: Any, number: Any, N: int, C: int, L: int) -> list[tuple[str, Any, list[float]]]:
    """Name, what the kernel finds and what the formulas say of all results."""
    values = N * C * L

    def numbers(count: int, given: list[float] | None = None) -> Any:
        return (number * count)(*given or ())

    x = numbers(values, [5 + 2 * sin(1.7 * i * i) for i in range(values)])
    grad_y = numbers(values, [sin(0.3 * i * i + 1) for i in range(values)])
    weight = numbers(C, [1 + c / C for c in range(C)])
    bias = numbers(C, [c / C - 0.5 for c in range(C)])
    y, grad_x = numbers(values), numbers(values)
    grad_weight, grad_bias, mean, inv_std, unbiased_var, running_mean = (numbers(C) for _ in range(6))
    running_var = numbers(C, [1.0] * C)
    batches = ctypes.c_int64(6)

    def call(direction: int, eps: float = 0.0, momentum: float = 0.0, **arrays: Any) -> None:
        addresses = {name: ctypes.addressof(array) for name, array in arrays.items()}
        sizes = {"K": 1, "N": N, "C": C, "L": L, "threads": 1}
        run(Problem(direction=direction, **addresses, **sizes, eps_number=eps, momentum_number=momentum))

    run.argtypes, run.restype = [ctypes.POINTER(Problem)], None
    kept = {"x": x, "weight": weight, "mean": mean, "inv_std": inv_std}
    running = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": batches}
    call(FORWARD, EPS, MOMENTUM, **kept, bias=bias, out=y, unbiased_var=unbiased_var, **running)
    call(BACKWARD, **kept, grad_y=grad_y, out=grad_x, grad_weight=grad_weight, grad_bias=grad_bias)

    expected: dict[str, list[float]] = {name: [0.0] * values for name in ("y", "dL/dx")}
    expected |= {name: [] for name in ("mean", "1 / std", "dL/dweight", "dL/dbias")}
    expected |= {name: [] for name in ("unbiased_var", "running_mean", "running_var")}
    n = N * L
    for c in range(C):
        places = [(row * C + c) * L + i for row in range(N) for i in range(L)]
        average = fsum(x[i] for i in places) / n
        var = fsum((x[i] - average) ** 2 for i in places) / n
        factor = 1 / sqrt(var + EPS)
        sum_g = fsum(grad_y[i] for i in places)
        sum_gx_hat = fsum(grad_y[i] * (x[i] - average) * factor for i in places)
        for i in places:
            x_hat = (x[i] - average) * factor
            expected["y"][i] = weight[c] * x_hat + bias[c]
            expected["dL/dx"][i] = weight[c] * factor * (grad_y[i] - (sum_g + x_hat * sum_gx_hat) / n)
        expected["mean"].append(average)
        expected["1 / std"].append(factor)
        expected["dL/dweight"].append(sum_gx_hat)
        expected["dL/dbias"].append(sum_g)
        expected["unbiased_var"].append(var * n / (n - 1))
        expected["running_mean"].append(MOMENTUM * average)
        expected["running_var"].append(1 - MOMENTUM + MOMENTUM * var * n / (n - 1))
    found = y, grad_x, mean, inv_std, grad_weight, grad_bias, unbiased_var, running_mean, running_var
    results = [(name, result, expected[name]) for name, result in zip(expected, found, strict=True)]
    return [*results, ("num_batches_tracked", [batches.value], [7])]


if __name__ == "__main__":
    main(sys.argv[1])
