"""The layers that a stack of multilayer perceptrons is built of, one entry of `LAYERS` each."""

import torch
from torch import nn

from bnlab.batch_norm import BatchNorm1d
from bnlab.stacked.compiled.c_functions import Kind
from bnlab.stacked.formulas.elementwise import elementwise
from bnlab.stacked.formulas.layers import BatchNorm, Layer, Linear, NativeBatchNorm

__all__ = ["LAYERS"]

aten = torch.ops.aten
# Derivatives are the operations that torch's own autograd calls. To train your own layer in stacks, add an entry for
# its class here, from the module that defines the class.
LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    BatchNorm1d: BatchNorm,
    nn.BatchNorm1d: NativeBatchNorm,
    nn.ReLU: elementwise(
        lambda x: x.relu_(), lambda g, y: aten.threshold_backward(g, y, 0), from_y=True, in_c=Kind.RELU
    ),
    nn.Tanh: elementwise(lambda x: x.tanh_(), lambda g, y: aten.tanh_backward(g, y), from_y=True),
    nn.Sigmoid: elementwise(lambda x: x.sigmoid_(), lambda g, y: aten.sigmoid_backward(g, y), from_y=True),
    nn.LeakyReLU: elementwise(nn.functional.leaky_relu, lambda g, x: aten.leaky_relu_backward(g, x, 0.01, False)),
    nn.ELU: elementwise(nn.functional.elu, lambda g, x: aten.elu_backward(g, 1.0, 1, 1, False, x)),
    nn.GELU: elementwise(nn.functional.gelu, lambda g, x: aten.gelu_backward(g, x)),
    nn.SiLU: elementwise(nn.functional.silu, lambda g, x: aten.silu_backward(g, x)),
}
