"""The layers of a stack and their loss in C, `step.c`: a whole step, network by network, in one call.

Operation by operation over all networks, Python takes 270 us a step, and every result leaves the first caches before it
is read again. Here batch norm is the layer's own kernel, the exponential and the logarithm are the vectors' functions
inside torch, and the matrix products are either the BLAS inside torch or, for small ones, a shorter way to the same
bits. Whether they are the same is tried out on random numbers before a size of batch is taken: so the gradients are
those of `layers.py`, which serves wherever this does not, bit for bit.
"""

import ctypes
import logging
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnlab.batch_norm import kernel
from bnlab.batch_norm.c_library import compiled
from bnlab.stacked.layers import Activation, BatchNorm, Layer, Linear
from bnlab.stacked.loss import cross_entropy_and_gradient

__all__ = ["CompiledStep"]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("step.c")
_LINEAR, _BATCH_NORM, _RELU, _NORMALIZE = range(4)
_NAMES = {torch.float32: ("float", "sgemm_", "f"), torch.float64: ("double", "dgemm_", "d")}


class _Of(ctypes.Structure):
    """A pointer for the first network, and the bytes to the next."""

    _fields_ = (("start", ctypes.c_void_p), ("stride", ctypes.c_int64))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "num_in", "num_out", "needs_x")),
        *((name, ctypes.c_int64) for name in ("forward_here", "weight_here", "x_here")),
        *((name, _Of) for name in ("x", "y", "grad_x", "grad_y", "weight", "bias", "grad_weight", "grad_bias")),
        *((name, _Of) for name in ("mean", "scale", "shift", "forward", "backward")),
    )


class _Loss(ctypes.Structure):
    _fields_ = (("classes", _Of), ("losses", ctypes.c_void_p), ("hits", ctypes.c_void_p))


class _Elsewhere(ctypes.Structure):
    """The `Functions` of step.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("gemm", "exponential", "logarithm", "batch_norm"))


class _Functions(NamedTuple):
    """Of one dtype: those of step.c, what they call, and how many numbers a vector has."""

    step: Any
    linear: Any
    loss: Any
    elsewhere: _Elsewhere
    lanes: int


@cache
def _functions(dtype: torch.dtype) -> _Functions | None:
    """None where one of them is missing."""
    if dtype not in _NAMES:
        return None
    name, gemm, letter = _NAMES[dtype]
    try:
        library = ctypes.CDLL(str(compiled(SOURCE)))
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        lanes = ctypes.c_int64.in_dll(library, "bytes_of_a_vector").value // dtype.itemsize
        symbols = gemm, f"Sleef_exp{letter}{lanes}_u10", f"Sleef_log{letter}{lanes}_u10"
        pointers = [ctypes.cast(getattr(torch_library, symbol), ctypes.c_void_p) for symbol in symbols]
        functions = [getattr(library, f"{part}_{name}") for part in ("step", "linear", "loss")]
    except (OSError, ValueError, subprocess.SubprocessError, AttributeError) as error:
        log.info("Stacks are trained operation by operation, because their step could not be compiled: %s", error)
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    step, linear, loss = functions
    step.argtypes = [pointer, number, pointer, number, number, number, pointer, pointer]
    step.restype = number
    linear.argtypes, linear.restype = [pointer, number, pointer, pointer], None
    loss.argtypes, loss.restype = [pointer, pointer, number, pointer, pointer], None
    return _Functions(step, linear, loss, _Elsewhere(*pointers), lanes)


def _of(tensor: Tensor | None) -> _Of:
    """Of (K, ...): where it starts, and its stride; each network's part is in one piece."""
    if tensor is None:
        return _Of(None, 0)
    assert tensor[0].is_contiguous()
    return _Of(tensor.data_ptr(), tensor.stride(0) * tensor.itemsize)


_DRAWS = 8  # a sum in another order has the same bits by chance, and at an edge of a product there are few


@cache
def _same_bits(
    dtype: torch.dtype, num_samples: int, num_in: int, num_out: int, biased: bool, num_threads: int
) -> list[bool]:
    """Of a linear layer, which of x W^T + b, g^T x, g W and sum(g) are in product.c and loss.c those of `Linear`.

    The BLAS adds in another order with another number of threads, torch's at the time of the call.
    """
    functions = _functions(dtype)
    assert functions is not None
    x, weight, g = (
        torch.empty(1, *shape, dtype=dtype)
        for shape in ((num_samples, num_in), (num_out, num_in), (num_samples, num_out))
    )
    bias, grad_bias = (torch.empty(1, num_out, dtype=dtype) if biased else None for _ in range(2))
    layer = Linear(weight, bias, torch.empty_like(weight), grad_bias)
    results = [torch.empty_like(g), torch.empty_like(weight), torch.empty_like(x)]
    results += [] if grad_bias is None else [torch.empty_like(grad_bias)]
    structure = _Layer(_LINEAR, num_in, num_out, True, True, True, True)
    structure.x, structure.weight, structure.bias, structure.grad_y = map(_of, (x, weight, bias, g))
    structure.y, structure.grad_weight, structure.grad_x, structure.grad_bias = map(_of, [*results, None][:4])
    scratch = torch.empty(num_in * num_out, dtype=dtype)
    generator = torch.Generator().manual_seed(0)  # its own: a training's random numbers stay what they are
    same = [True] * 4
    for _ in range(_DRAWS):
        for tensor in (x, weight, g, *([] if bias is None else [bias])):
            tensor.normal_(generator=generator)
        y, grad_x = layer.forward(x), layer.backward(g, True)
        functions.linear(ctypes.byref(structure), num_samples, ctypes.byref(functions.elsewhere), scratch.data_ptr())
        for index, (a, b) in enumerate(zip(results, (y, layer.grad_weight, grad_x, grad_bias), strict=False)):
            assert b is not None
            same[index] = same[index] and torch.equal(a, b)
    return same


@cache
def _same_gradient(dtype: torch.dtype, num_samples: int, num_classes: int) -> bool:
    """Whether the gradient of the loss is that of `bnlab.stacked.loss`."""
    functions = _functions(dtype)
    assert functions is not None
    logits, gradient = (torch.empty(1, num_samples, num_classes, dtype=dtype) for _ in range(2))
    classes = torch.arange(num_samples).remainder_(num_classes)
    loss, hits = torch.empty(1, dtype=dtype), torch.empty(1, dtype=torch.int64)
    last = _Layer(_LINEAR, 0, num_classes)
    last.y, last.grad_y = _of(logits), _of(gradient)
    batch = _Loss(_Of(classes.data_ptr(), 0), loss.data_ptr(), hits.data_ptr())
    scratch = torch.empty(num_classes * functions.lanes, dtype=dtype)
    pointers = ctypes.byref(functions.elsewhere), scratch.data_ptr()
    generator = torch.Generator().manual_seed(0)
    for _ in range(_DRAWS):
        logits.normal_(0, 3, generator=generator)
        functions.loss(ctypes.byref(last), ctypes.byref(batch), num_samples, *pointers)
        if not torch.equal(gradient, cross_entropy_and_gradient(logits, classes)[1]):
            return False
    return True


class _Program:
    """The layers for one size of batch, and the tensors that they point into, which the networks use in turn.

    Attributes:
        is_exact: whether all of it was tried out to give the bits of `layers.py`.
    """

    def __init__(self, layers: Sequence[Layer], num_samples: int, *, is_training: bool) -> None:
        first = layers[0]
        assert isinstance(first, Linear)
        self._K, self._N, self._dtype = len(first.weight), num_samples, first.weight.dtype
        self._is_training = is_training
        functions = _functions(self._dtype)
        assert functions is not None
        self._kept: list[Any] = []
        self._scales: list[tuple[BatchNorm, Tensor]] = []
        self.layers = (_Layer * len(layers))()
        self.is_exact = True
        x, grad_x, width, num_scratch = None, None, 0, 0
        for structure, layer in zip(self.layers, layers, strict=True):
            structure.num_in, structure.needs_x = width, x is not None
            y, grad_y = x, grad_x
            if isinstance(layer, Linear):
                width, structure.num_in = layer.weight.shape[1:]
                y, grad_y = self._values(width), self._values(width)
                self._add_linear(structure, layer)
                num_scratch = max(num_scratch, structure.num_in * width)
            elif isinstance(layer, BatchNorm) and is_training:
                assert x is not None
                assert grad_x is not None
                y, grad_y = self._values(width), self._values(width)
                structure.kind = _BATCH_NORM
                statistics = torch.empty(2, 1, width, dtype=self._dtype).expand(2, self._K, width)
                forward, backward = layer.problems(x, y, grad_y, grad_x, statistics)
                structure.forward, structure.backward = self._joined(forward), self._joined(backward)
                self._kept.append(statistics)
            elif isinstance(layer, BatchNorm):
                structure.kind = _NORMALIZE
                scale = torch.empty(self._K, width, dtype=self._dtype)
                structure.mean, structure.scale, structure.shift = map(_of, (layer.running_mean, scale, layer.bias))
                self._scales.append((layer, scale))
            else:
                structure.kind = _RELU
            structure.num_out = width
            structure.x, structure.y, structure.grad_x, structure.grad_y = map(_of, (x, y, grad_x, grad_y))
            self._kept += [y, grad_y]
            x, grad_x = y, grad_y
        self.is_exact = self.is_exact and _same_gradient(self._dtype, num_samples, width)
        self._scratch = torch.empty(max(num_scratch, width * functions.lanes), dtype=self._dtype)
        self._step = functions.step
        self._elsewhere = _Elsewhere.from_buffer_copy(functions.elsewhere)
        self._elsewhere.batch_norm = ctypes.cast(kernel.run_of[self._dtype], ctypes.c_void_p)  # type: ignore[arg-type]

    def _add_linear(self, structure: _Layer, layer: Linear) -> None:
        structure.kind = _LINEAR
        structure.weight, structure.bias = _of(layer.weight), _of(layer.bias)
        structure.grad_weight, structure.grad_bias = _of(layer.grad_weight), _of(layer.grad_bias)
        if self._is_training:  # an evaluation has few, large products, for which the BLAS is as good
            sizes = self._N, structure.num_in, layer.weight.shape[1]
            biased = layer.grad_bias is not None
            *products, is_same_sum = _same_bits(self._dtype, *sizes, biased, torch.get_num_threads())
            structure.forward_here, structure.weight_here, structure.x_here = products
            self.is_exact = self.is_exact and is_same_sum

    def _values(self, width: int) -> Tensor:
        return torch.empty(1, self._N, width, dtype=self._dtype).expand(self._K, -1, -1)

    def _joined(self, problems: Sequence[bytes]) -> _Of:
        joined = ctypes.create_string_buffer(b"".join(problems))
        self._kept.append(joined)
        return _Of(ctypes.addressof(joined), len(problems[0]))

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = x.contiguous(), y.contiguous()
        losses, hits = torch.empty(self._K, dtype=self._dtype), torch.empty(self._K, dtype=torch.int64)
        for layer, scale in self._scales:
            layer.evaluation_scale(scale)
        self.layers[0].x = _Of(x.data_ptr(), x.stride(0) * x.itemsize if x.dim() == 3 else 0)
        classes = _Of(y.data_ptr(), y.stride(0) * y.itemsize if y.dim() == 2 else 0)
        is_taken = self._step(
            self.layers,
            len(self.layers),
            ctypes.byref(_Loss(classes, losses.data_ptr(), hits.data_ptr())),
            self._K,
            self._N,
            self._is_training,
            ctypes.byref(self._elsewhere),
            self._scratch.data_ptr(),
        )
        if not is_taken:
            raise IndexError(
                f"Classes must be in 0 .. {self.layers[-1].num_out - 1}, but got {int(y.min())} .. {int(y.max())}."
            )
        return losses, hits


class CompiledStep:
    """`StackedMLP.step` and `StackedMLP.evaluate` through `layers`, in C.

    Args:
        layers: linear ones, batch norms that the kernel takes, and ReLU; see `takes`.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)
        self._programs: dict[tuple[int, bool], _Program] = {}  # an epoch has at most two sizes of batch

    @staticmethod
    def takes(layers: Sequence[Layer]) -> bool:
        first = layers[0]
        return (
            isinstance(first, Linear)
            and first.weight.is_cpu
            and kernel.is_available()
            and _functions(first.weight.dtype) is not None
            and all(
                isinstance(layer, Linear)
                or (type(layer) is BatchNorm and layer.momentum is not None)
                or (isinstance(layer, Activation) and layer.kind is nn.ReLU)
                for layer in layers
            )
        )

    def step(self, num_samples: int) -> _Program | None:
        """For batches of this size, where it leaves the gradients of `layers.py`, bit for bit."""
        return self._program(num_samples, is_training=True)

    def evaluation(self, num_samples: int) -> _Program | None:
        """For batches of this size, where there are running statistics."""
        if any(isinstance(layer, BatchNorm) and layer.running_mean is None for layer in self._layers):
            return None
        return self._program(num_samples, is_training=False)

    def _program(self, num_samples: int, *, is_training: bool) -> _Program | None:
        key = num_samples, is_training
        if key not in self._programs:
            self._programs[key] = _Program(self._layers, num_samples, is_training=is_training)
        return self._programs[key] if self._programs[key].is_exact else None
