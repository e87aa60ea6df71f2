"""The layers of a stack in C, `step.c`: forward and backward, network by network, in one call each.

Operation by operation over all networks, Python takes 270 us a step and every result leaves the cache before it is read
again. Here the matrix products are those of the BLAS inside torch, batch norm is the layer's own kernel, and what
another hand would round otherwise (log-softmax, the sums over a batch for the biases) is left to torch's operations: so
the gradients are those of `layers.py`, which serves wherever this does not, bit for bit.
"""

import ctypes
import logging
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnlab.batch_norm import kernel
from bnlab.batch_norm.c_library import compiled
from bnlab.stacked.layers import Activation, BatchNorm, Layer, Linear
from bnlab.stacked.loss import padded

__all__ = ["CompiledStep"]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("step.c")
_LINEAR, _BATCH_NORM, _RELU = range(3)
log_softmax_backward = torch.ops.aten._log_softmax_backward_data.out
_NAMES = {torch.float32: ("float", "sgemm_"), torch.float64: ("double", "dgemm_")}


class _Of(ctypes.Structure):
    """A pointer for the first network, and the bytes to the next."""

    _fields_ = (("start", ctypes.c_void_p), ("stride", ctypes.c_int64))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "num_in", "num_out", "needs_x")),
        *((name, _Of) for name in ("x", "y", "grad_x", "grad_y", "weight", "bias", "grad_weight")),
        *((name, _Of) for name in ("forward", "backward")),
    )


class _Loss(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int64),
        ("classes", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        *((name, _Of) for name in ("turned", "one_hot", "log_p", "gradient")),
        ("losses", ctypes.c_void_p),
        ("hits", ctypes.c_void_p),
    )


@cache
def _functions(dtype: torch.dtype) -> tuple[Any, Any, ctypes.c_void_p] | None:
    """forward and backward of step.c, and the matrix product of torch's BLAS; None where one of them is missing."""
    if dtype not in _NAMES:
        return None
    name, gemm = _NAMES[dtype]
    try:
        library = ctypes.CDLL(str(compiled(SOURCE)))
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        functions = getattr(library, f"forward_{name}"), getattr(library, f"backward_{name}")
        product = ctypes.cast(getattr(torch_library, gemm), ctypes.c_void_p)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.info("Stacks are trained operation by operation, because their step could not be compiled: %s", error)
        return None
    for function in functions:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        function.argtypes = [pointer, number, pointer, number, number, pointer, pointer]
        function.restype = number
    return *functions, product


def _of(tensor: Tensor | None) -> _Of:
    """Of (K, ...): where it starts, and its stride; each network's part is in one piece."""
    if tensor is None:
        return _Of(None, 0)
    assert tensor[0].is_contiguous()
    return _Of(tensor.data_ptr(), tensor.stride(0) * tensor.itemsize)


class _Program:
    """The layers and the loss for one size of batch, and the tensors that they point into."""

    def __init__(self, layers: Sequence[Layer], num_samples: int) -> None:
        first = layers[0]
        assert isinstance(first, Linear)
        self._K, self._N, self._dtype = len(first.weight), num_samples, first.weight.dtype
        self._kept: list[Any] = []
        self.layers = (_Layer * len(layers))()
        self.gradients: list[Tensor] = []  # dL/dy of each layer
        x, grad_x, width = None, None, 0
        for structure, layer in zip(self.layers, layers, strict=True):
            structure.num_in, structure.needs_x = width, x is not None
            if isinstance(layer, Linear):
                width, structure.num_in = layer.weight.shape[1:]
                structure.kind, y, grad_y = _LINEAR, self._values(width), self._values(width)
                structure.weight, structure.grad_weight = _of(layer.weight), _of(layer.grad_weight)
                structure.bias = _of(layer.bias)
            elif isinstance(layer, BatchNorm):
                assert x is not None
                assert grad_x is not None
                structure.kind, y, grad_y = _BATCH_NORM, self._values(width), self._values(width)
                statistics = torch.empty(2, self._K, width, dtype=self._dtype)
                forward, backward = layer.problems(x, y, grad_y, grad_x, statistics)
                structure.forward, structure.backward = self._joined(forward), self._joined(backward)
                self._kept.append(statistics)
            else:
                assert x is not None
                assert grad_x is not None
                structure.kind, y, grad_y = _RELU, x, grad_x
            structure.num_out = width
            structure.x, structure.y, structure.grad_x, structure.grad_y = _of(x), _of(y), _of(grad_x), _of(grad_y)
            self._kept.append(y)
            self.gradients.append(grad_y)
            x, grad_x = y, grad_y
        # Zeros, for what pads a batch is never written.
        turned, one_hot, log_p, gradient = self.turned = [
            torch.zeros(self._K, width, padded(num_samples), dtype=self._dtype) for _ in range(4)
        ]
        self.loss = _Loss(padded(num_samples), None, 0, _of(turned), _of(one_hot), _of(log_p), _of(gradient))

    def _values(self, width: int) -> Tensor:
        return torch.empty(self._K, self._N, width, dtype=self._dtype)

    def _joined(self, problems: Sequence[bytes]) -> _Of:
        joined = ctypes.create_string_buffer(b"".join(problems))
        self._kept.append(joined)
        return _Of(ctypes.addressof(joined), len(problems[0]))


class CompiledStep:
    """Forward and backward through `layers` and the mean cross-entropy, for K networks.

    Args:
        layers: linear ones, batch norms that the kernel takes, and ReLU; see `takes`.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        first = layers[0]
        assert isinstance(first, Linear)
        self._layers = list(layers)
        self._K, self._dtype = len(first.weight), first.weight.dtype
        functions = _functions(self._dtype)
        assert functions is not None
        self._forward, self._backward, self._gemm = functions
        self._batch_norm = ctypes.cast(kernel.run_of[self._dtype], ctypes.c_void_p)  # type: ignore[arg-type]
        self._programs: dict[int, _Program] = {}  # by N: an epoch has at most two sizes of batch

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

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `StackedMLP.step`."""
        num_samples = x.shape[-2]
        if num_samples not in self._programs:
            self._programs[num_samples] = _Program(self._layers, num_samples)
        program = self._programs[num_samples]
        x, y = x.contiguous(), y.contiguous()
        losses, hits = torch.empty(self._K, dtype=self._dtype), torch.empty(self._K, dtype=torch.int64)
        program.layers[0].x = _Of(x.data_ptr(), x.stride(0) * x.itemsize if x.dim() == 3 else 0)
        loss = program.loss
        loss.classes, loss.stride = y.data_ptr(), y.stride(0) if y.dim() == 2 else 0
        loss.losses, loss.hits = losses.data_ptr(), hits.data_ptr()
        whole = (
            program.layers,
            len(self._layers),
            ctypes.byref(loss),
            self._K,
            num_samples,
            self._gemm,
            self._batch_norm,
        )
        if not self._forward(*whole):
            raise IndexError(
                f"Classes must be in 0 .. {program.turned[0].shape[1] - 1}, but got {int(y.min())} .. {int(y.max())}."
            )
        turned, one_hot, log_p, gradient = program.turned
        torch.log_softmax(turned, 1, out=log_p)
        log_softmax_backward(one_hot, log_p, 1, self._dtype, out=gradient)
        self._backward(*whole)
        for layer, grad_y in zip(self._layers, program.gradients, strict=True):
            if isinstance(layer, Linear):
                layer.sum_for_bias(grad_y)
        return losses, hits
