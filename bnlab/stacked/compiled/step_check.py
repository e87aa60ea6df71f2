"""Check whether a library compiled from `step.c` works: `python step_check.py step.so`.

The check needs no packages. It compares each kind of layer and the update with their formulas in Python's own numbers;
`same_bits.py` tests the loss, and whether all of them have torch's bits. Wrong code may crash the process.
"""

import ctypes
import sys
from collections.abc import Sequence
from enum import IntEnum
from math import fsum, sin
from typing import Any

__all__ = ["NUMBER", "POINTER", "Elsewhere", "Kind", "LayerInC", "LossInC", "Of", "UpdateInC", "wrong_size"]

POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


class Of(ctypes.Structure):
    """A pointer to the first network's part, and the bytes to the next network's."""

    _fields_ = (("start", POINTER), ("stride", NUMBER))


class Kind(IntEnum):
    LINEAR = 0
    BATCH_NORM = 1
    RELU = 2
    NORMALIZE = 3


class LayerInC(ctypes.Structure):
    _fields_ = (
        *((name, NUMBER) for name in ("kind", "num_in", "num_out", "needs_x")),
        *((name, NUMBER) for name in ("forward_here", "weight_here", "x_here")),
        *((name, Of) for name in ("x", "y", "grad_x", "grad_y", "weight", "bias", "grad_weight", "grad_bias")),
        *((name, Of) for name in ("mean", "scale", "shift", "forward", "backward")),
    )


class LossInC(ctypes.Structure):
    _fields_ = (("classes", Of), ("losses", POINTER), ("hits", POINTER))


class UpdateInC(ctypes.Structure):
    _fields_ = (
        *((name, Of) for name in ("rows", "gradients", "velocity")),
        ("sizes", POINTER),
        *((name, NUMBER) for name in ("num_pieces", "nesterov", "is_first")),
        *((name, POINTER) for name in ("lr", "momentum", "dampening", "weight_decay")),
    )


class Elsewhere(ctypes.Structure):
    """The struct `Functions` of step.c."""

    _fields_ = tuple((name, POINTER) for name in ("gemm", "exponential", "logarithm", "batch_norm"))


def wrong_size(library: ctypes.CDLL) -> str | None:
    """Return an error if a structure has another size in C; a wrong order of the fields shows in the results."""
    structures = {"layer": LayerInC, "loss": LossInC, "update": UpdateInC, "functions": Elsewhere}
    for name, structure in structures.items():
        size = NUMBER.in_dll(library, f"size_of_{name}").value
        if size != ctypes.sizeof(structure):
            return f"the size of a {name} in C is {size}, not {ctypes.sizeof(structure)}"
    return None


# By the C functions' names: the type, and the tolerance.
NUMBERS = {"float": (ctypes.c_float, 1e-5), "double": (ctypes.c_double, 1e-12)}
N, IN, OUT = 13, 19, 53  # whole tiles of the products, and a remainder


def main(path: str) -> None:
    library = ctypes.CDLL(path)
    if ctypes.c_int64.in_dll(library, "bytes_of_a_vector").value not in (16, 32, 64):
        sys.exit("a vector has an odd size")
    if problem := wrong_size(library):
        sys.exit(problem)
    for name, (number, precision) in NUMBERS.items():
        layer, descent = (getattr(library, f"{part}_{name}") for part in ("linear", "descent"))
        for what, found, expected in (*layers(layer, number), *updates(descent, number)):
            for a, b in zip(found, expected, strict=True):
                if not abs(a - b) <= precision * max(abs(b), 1):
                    sys.exit(f"{what} of {name} numbers is {a}, not {b}")


Results = list[tuple[str, Any, Sequence[float]]]


def layers(run: Any, number: Any) -> Results:
    run.argtypes, run.restype = [ctypes.POINTER(LayerInC), NUMBER, POINTER, POINTER], None
    scratch = (number * (IN * OUT))()

    def call(kind: Kind, **arrays: Any) -> None:
        here = {"forward_here": 1, "weight_here": 1, "x_here": 1}
        places = {name: Of(ctypes.addressof(array)) for name, array in arrays.items()}
        layer = LayerInC(kind=kind, num_in=IN, num_out=OUT, needs_x=1, **here, **places)
        run(layer, N, None, ctypes.addressof(scratch))

    x, grad_y = waves(number, N * IN, 1.1), waves(number, N * OUT, 0.7)
    weight, bias = waves(number, OUT * IN, 0.3), waves(number, OUT, 1.9)
    y, grad_x, grad_weight, grad_bias = ((number * count)() for count in (N * OUT, N * IN, OUT * IN, OUT))
    call(
        Kind.LINEAR,
        **{"x": x, "y": y, "grad_x": grad_x, "grad_y": grad_y},
        **{"weight": weight, "bias": bias, "grad_weight": grad_weight, "grad_bias": grad_bias},
    )
    rows, inputs, outputs = range(N), range(IN), range(OUT)
    results: Results = [
        (
            "x W^T + b",
            y,
            [bias[c] + fsum(x[n * IN + i] * weight[c * IN + i] for i in inputs) for n in rows for c in outputs],
        ),
        (
            "g W",
            grad_x,
            [fsum(grad_y[n * OUT + c] * weight[c * IN + i] for c in outputs) for n in rows for i in inputs],
        ),
        (
            "g^T x",
            grad_weight,
            [fsum(grad_y[n * OUT + c] * x[n * IN + i] for n in rows) for c in outputs for i in inputs],
        ),
        ("sum(g)", grad_bias, [fsum(grad_y[n * OUT + c] for n in rows) for c in outputs]),
    ]
    before, g = waves(number, N * OUT, 1.3), waves(number, N * OUT, 0.9)
    given = [*before], [*g]
    call(Kind.RELU, y=before, grad_y=g)
    results.append(("ReLU", before, [max(value, 0) for value in given[0]]))
    results.append(("ReLU's gradient", g, [b if a > 0 else 0 for a, b in zip(*given, strict=True)]))
    z = waves(number, N * OUT, 1.3)
    mean, scale, shift = (waves(number, OUT, rate) for rate in (0.2, 0.4, 0.6))
    call(Kind.NORMALIZE, y=z, mean=mean, scale=scale, shift=shift)
    normal = [(value - mean[i % OUT]) * scale[i % OUT] + shift[i % OUT] for i, value in enumerate(given[0])]
    return [*results, ("(x - mean) scale + shift", z, normal)]


def updates(run: Any, number: Any) -> Results:
    run.argtypes, run.restype = [ctypes.POINTER(UpdateInC)], None
    values = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}
    numbers = {name: (ctypes.c_double * 1)(value) for name, value in values.items()}
    sizes = (ctypes.c_int64 * 2)(IN, OUT)
    w, g, v = (waves(number, IN + OUT, rate) for rate in (0.5, 0.8, 1.2))
    before = zip([*w], [*g], [*v], strict=True)
    rows, gradients, velocity = (Of(ctypes.addressof(array)) for array in (w, g, v))
    pointers = {name: ctypes.addressof(array) for name, array in numbers.items()}
    pointers["sizes"] = ctypes.addressof(sizes)
    run(UpdateInC(rows=rows, gradients=gradients, velocity=velocity, num_pieces=2, **pointers))
    moved = [0.9 * c + 0.8 * (b + 0.01 * a) for a, b, c in before]
    before = waves(number, IN + OUT, 0.5)
    return [("momentum", v, moved), ("w", w, [a - 0.1 * c for a, c in zip(before, moved, strict=True)])]


def waves(number: Any, count: int, rate: float) -> Any:
    """Make numbers in -1 .. 1 without a pattern."""
    return (number * count)(*(sin(rate * i * i + rate) for i in range(count)))


if __name__ == "__main__":
    main(sys.argv[1])
