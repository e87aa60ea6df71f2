"""The layers of a stack and their loss in C, `step.c`: a whole step, network by network, in one call.

Batch norm is the layer's own kernel, the exponential and the logarithm are torch's vectorized functions, and matrix
products are computed by torch's BLAS or, if small, by `product.c`, which is faster and gives the same bits. This is
tested on random numbers before a batch size is accepted (`same_bits.py`), so the gradients equal those of `layers.py`
bit for bit. Where the test fails, `layers.py` is used. `bnlab/bench/records/sweep.md` has the time of each part.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.plain import in_memory
from bnlab.batch_norm.back_ends import kernel
from bnlab.batch_norm.back_ends.kernel_check import Problem
from bnlab.stacked.compiled.c_functions import Elsewhere, Kind, LayerInC, LossInC, Of, UpdateInC, functions_of, of
from bnlab.stacked.formulas.layers import BatchNorm, Layer, Linear
from bnlab.stacked.networks.same_bits import same_loss, same_products

__all__ = ["CompiledStep"]


class _Program:
    """The layers for one batch size, and the tensors that they point into, which the networks use in turn.

    Attributes:
        is_exact: whether every part was found to give the bits of `layers.py`.
    """

    def __init__(self, layers: Sequence[Layer], num_samples: int, *, is_training: bool) -> None:
        first = layers[0]
        assert isinstance(first, Linear)
        self._K, self._N, self._dtype = len(first.weight), num_samples, first.weight.dtype
        num_in = first.weight.shape[2]
        self._shapes = (  # of x and y: one batch per network, or one for all
            ((self._K, self._N, num_in), (self._K, self._N)),
            ((self._N, num_in), (self._N,)),
        )
        self._is_training = is_training
        functions = functions_of(self._dtype)
        assert functions is not None
        self._kept: list[Any] = []
        self._scales: list[tuple[BatchNorm, Tensor]] = []
        self._layers = (LayerInC * len(layers))()
        sharing: dict[int, Of] = {}
        self.is_exact = True
        x, grad_x, width, num_scratch = None, None, 0, 0
        for index, (structure, layer) in enumerate(zip(self._layers, layers, strict=True)):
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
                structure.kind = Kind.BATCH_NORM
                statistics = torch.empty(2, 1, width, dtype=self._dtype).expand(2, self._K, width)
                problems = layer.problems(x, y, grad_y, grad_x, statistics)
                structure.forward, structure.backward, sharing[index] = map(self._joined, problems)
                self._kept.append(statistics)
            elif isinstance(layer, BatchNorm):
                structure.kind = Kind.NORMALIZE
                scale = torch.empty(self._K, width, dtype=self._dtype)
                structure.mean, structure.scale, structure.shift = map(of, (layer.running_mean, scale, layer.bias))
                self._scales.append((layer, scale))
            else:
                kind = layer.kind_in_c()
                assert kind is not None
                structure.kind = kind
            structure.num_out = width
            structure.x, structure.y, structure.grad_x, structure.grad_y = map(of, (x, y, grad_x, grad_y))
            self._kept += [y, grad_y]
            x, grad_x = y, grad_y
        # Gradients that are used at once are all written to the first network's row, which so stays in the caches.
        self._layers_of_update = type(self._layers).from_buffer_copy(self._layers)
        for index, structure in enumerate(self._layers_of_update):
            structure.grad_weight.stride = structure.grad_bias.stride = 0
            structure.backward = sharing.get(index, structure.backward)
        self.is_exact = self.is_exact and same_loss(self._dtype, num_samples, width)
        self._scratch = torch.empty(max(num_scratch, width * functions.lanes), dtype=self._dtype)
        self._step = functions.step
        self._elsewhere = Elsewhere.from_buffer_copy(functions.elsewhere)
        self._elsewhere.batch_norm = ctypes.cast(kernel.run_of[self._dtype], ctypes.c_void_p)  # type: ignore[arg-type]

    def _add_linear(self, structure: LayerInC, layer: Linear) -> None:
        structure.kind = Kind.LINEAR
        structure.weight, structure.bias = of(layer.weight), of(layer.bias)
        structure.grad_weight, structure.grad_bias = of(layer.grad_weight), of(layer.grad_bias)
        if self._is_training:  # an evaluation has few, large products, for which the BLAS is as fast
            sizes = self._N, structure.num_in, layer.weight.shape[1]
            biased = layer.grad_bias is not None
            *products, is_same_sum = same_products(self._dtype, *sizes, biased, torch.get_num_threads())
            structure.forward_here, structure.weight_here, structure.x_here = products
            self.is_exact = self.is_exact and is_same_sum

    def _values(self, width: int) -> Tensor:
        return torch.empty(1, self._N, width, dtype=self._dtype).expand(self._K, -1, -1)

    def _joined(self, problems: Sequence[Problem]) -> Of:
        joined = (Problem * len(problems))(*problems)
        self._kept.append(joined)
        return Of(ctypes.addressof(joined), ctypes.sizeof(Problem))

    def __call__(self, x: Tensor, y: Tensor, update: UpdateInC | None = None) -> tuple[Tensor, Tensor]:
        """Do what `StackedMLP.step` or `evaluate` does, and update the parameters if `update` is given.

        After an update the gradients are lost: all networks have used the first one's row.

        Raises:
            ValueError: tensors that C would read past the end of.
            IndexError: a class out of bounds.
        """
        types = x.dtype, y.dtype, x.device.type, y.device.type
        if (x.shape, y.shape) not in self._shapes or types != (self._dtype, torch.int64, "cpu", "cpu"):
            shapes = " or ".join(f"{of_x} and {of_y}" for of_x, of_y in self._shapes)
            raise ValueError(
                f"x and y must have the shapes {shapes}, and the types {self._dtype} and torch.int64, on the CPU, "
                f"but got {tuple(x.shape)} and {tuple(y.shape)}, {x.dtype} and {y.dtype}, on {x.device} and {y.device}."
            )
        x, y = in_memory(x.contiguous()).resolve_neg(), in_memory(y.contiguous()).resolve_neg()
        losses, hits = torch.empty(self._K, dtype=self._dtype), torch.empty(self._K, dtype=torch.int64)
        for layer, scale in self._scales:
            layer.evaluation_scale(scale)
        layers = self._layers if update is None else self._layers_of_update
        layers[0].x = Of(x.data_ptr(), x.stride(0) * x.itemsize if x.dim() == 3 else 0)
        classes = Of(y.data_ptr(), y.stride(0) * y.itemsize if y.dim() == 2 else 0)
        is_taken = self._step(
            layers,
            len(layers),
            ctypes.byref(LossInC(classes, losses.data_ptr(), hits.data_ptr())),
            None if update is None else ctypes.byref(update),
            self._K,
            self._N,
            self._is_training,
            ctypes.byref(self._elsewhere),
            self._scratch.data_ptr(),
        )
        if not is_taken:
            wrong = int(y.min()) if y.min() < 0 else int(y.max())
            raise IndexError(f"Classes must be in 0 .. {layers[-1].num_out - 1}, but got {wrong}.")
        return losses, hits


class CompiledStep:
    """Run `StackedMLP.step` and `StackedMLP.evaluate` through `layers`, in C.

    Args:
        layers: layers that step.c knows; see `takes`.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)
        self._programs: dict[tuple[int, bool], _Program] = {}  # an epoch has at most two batch sizes

    @staticmethod
    def takes(layers: Sequence[Layer]) -> bool:
        first = layers[0]
        return (
            isinstance(first, Linear)
            and first.weight.is_cpu
            and kernel.is_available()
            and functions_of(first.weight.dtype) is not None
            and all(layer.kind_in_c() is not None for layer in layers)
        )

    def step(self, num_samples: int) -> _Program | None:
        """Return the step for batches of this size, or None unless its gradients equal those of `layers.py`."""
        return self._program(num_samples, is_training=True)

    def evaluation(self, num_samples: int) -> _Program | None:
        """Return the evaluation for batches of this size, or None without running statistics."""
        if any(isinstance(layer, BatchNorm) and layer.running_mean is None for layer in self._layers):
            return None
        return self._program(num_samples, is_training=False)

    def _program(self, num_samples: int, *, is_training: bool) -> _Program | None:
        key = num_samples, is_training
        if key not in self._programs:
            self._programs[key] = _Program(self._layers, num_samples, is_training=is_training)
        return self._programs[key] if self._programs[key].is_exact else None
