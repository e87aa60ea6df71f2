"""Whether a library compiled from `step.c` works: `python step_check.py step.so`.

It needs no packages. Each kind of layer and the update are compared with what they are for, in Python's own numbers;
whether they have torch's bits, and the loss, is for `same_bits.py`. Wrong code may crash it.
"""

import ctypes
import struct
import sys
from collections.abc import Sequence
from math import fsum, sin
from typing import Any

# By the C functions' names: the type, and how large an error may be.
NUMBERS = {"float": (ctypes.c_float, 1e-5), "double": (ctypes.c_double, 1e-12)}
N, IN, OUT = 13, 19, 53  # whole tiles of the products, and what is left of them
LINEAR, _, RELU, NORMALIZE = range(4)
# As c_functions.py lays them out; no pointer has a stride here.
LAYER = (
    *("x", "y", "grad_x", "grad_y", "weight", "bias", "grad_weight", "grad_bias"),
    *("mean", "scale", "shift", "forward", "backward"),
)
pack_layer = struct.Struct("@7q" + "Pq" * len(LAYER)).pack
pack_update = struct.Struct("@PqPqPqP3q4P").pack


def main(path: str) -> None:
    library = ctypes.CDLL(path)
    if ctypes.c_int64.in_dll(library, "bytes_of_a_vector").value not in (16, 32, 64):
        sys.exit("a vector has an odd size")
    for name, (number, precision) in NUMBERS.items():
        layer, descent = (getattr(library, f"{part}_{name}") for part in ("linear", "descent"))
        for what, found, expected in (*layers(layer, number), *updates(descent, number)):
            for a, b in zip(found, expected, strict=True):
                if not abs(a - b) <= precision * max(abs(b), 1):
                    sys.exit(f"{what} of {name} numbers is {a}, not {b}")


Results = list[tuple[str, Any, Sequence[float]]]


def layers(run: Any, number: Any) -> Results:
    run.argtypes, run.restype = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p], None
    scratch = (number * (IN * OUT))()

    def call(kind: int, **pointers: Any) -> None:
        places = [value for name in LAYER for value in (address(pointers.get(name)), 0)]
        run(pack_layer(kind, IN, OUT, *[1] * 4, *places), N, None, ctypes.addressof(scratch))

    x, grad_y = waves(number, N * IN, 1.1), waves(number, N * OUT, 0.7)
    weight, bias = waves(number, OUT * IN, 0.3), waves(number, OUT, 1.9)
    y, grad_x, grad_weight, grad_bias = ((number * count)() for count in (N * OUT, N * IN, OUT * IN, OUT))
    call(
        LINEAR,
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
    call(RELU, y=before, grad_y=g)
    results.append(("ReLU", before, [max(value, 0) for value in given[0]]))
    results.append(("ReLU's gradient", g, [b if a > 0 else 0 for a, b in zip(*given, strict=True)]))
    z = waves(number, N * OUT, 1.3)
    mean, scale, shift = (waves(number, OUT, rate) for rate in (0.2, 0.4, 0.6))
    call(NORMALIZE, y=z, mean=mean, scale=scale, shift=shift)
    normal = [(value - mean[i % OUT]) * scale[i % OUT] + shift[i % OUT] for i, value in enumerate(given[0])]
    return [*results, ("(x - mean) scale + shift", z, normal)]


def updates(run: Any, number: Any) -> Results:
    run.argtypes, run.restype = [ctypes.c_char_p], None
    lr, momentum, dampening, decay = ((ctypes.c_double * 1)(value) for value in (0.1, 0.9, 0.2, 0.01))
    sizes = (ctypes.c_int64 * 2)(IN, OUT)
    w, g, v = (waves(number, IN + OUT, rate) for rate in (0.5, 0.8, 1.2))
    before = zip([*w], [*g], [*v], strict=True)
    places = [value for array in (w, g, v) for value in (address(array), 0)]
    run(pack_update(*places, address(sizes), 2, 0, 0, *map(address, (lr, momentum, dampening, decay))))
    moved = [0.9 * c + 0.8 * (b + 0.01 * a) for a, b, c in before]
    before = waves(number, IN + OUT, 0.5)
    return [("momentum", v, moved), ("w", w, [a - 0.1 * c for a, c in zip(before, moved, strict=True)])]


def waves(number: Any, count: int, rate: float) -> Any:
    """Numbers without a pattern, in -1 .. 1."""
    return (number * count)(*(sin(rate * i * i + rate) for i in range(count)))


def address(array: Any) -> int:
    return 0 if array is None else ctypes.addressof(array)


if __name__ == "__main__":
    main(sys.argv[1])
