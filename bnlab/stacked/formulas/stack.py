"""K networks of one architecture as one: each network is a row, each parameter a view over all rows."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnlab.errors import UserError

__all__ = ["Part", "Stack"]


@dataclass(frozen=True)
class Part:
    """One layer's share of a stack of K networks; all tensors are views that see every update.

    Attributes:
        rows: (K, P), the layer's parameters, concatenated.
        row_gradients: (K, P), their gradients.
        parameters, gradients, buffers: by their names in the module, (K, *shape).
    """

    rows: Tensor
    row_gradients: Tensor
    parameters: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


class Stack:
    """The parameters and buffers of K networks that differ only in their values.

    All parameters are in one tensor, one row per network, in the order of `network.parameters()`. An update, a copy of
    the best weights or the removal of a network is therefore one operation on rows.

    Args:
        networks: modules with the same names, shapes and dtypes.
        dtype: the dtype to convert to; None keeps their own.
    Attributes:
        template: the first network, for its structure.
        rows: (K, P), the P parameter values of each network.
        gradients: (K, P).
        shapes: the shape of each parameter, without K.
        buffers: name to (K, *shape).
    Raises:
        UserError: a network that differs from the first in more than its values.
    """

    def __init__(self, networks: Sequence[nn.Module], dtype: torch.dtype | None = None) -> None:
        self.template = copy.deepcopy(networks[0])
        states = [dict(network.named_parameters()) for network in networks]
        self.shapes = {name: parameter.shape for name, parameter in states[0].items()}
        buffers = [dict(network.named_buffers()) for network in networks]
        for index, (state, of_network) in enumerate(zip(states, buffers, strict=True)):
            if _signature(state | of_network) != _signature(states[0] | buffers[0]):
                raise UserError(
                    f"Networks of a stack must have the same parameters and buffers, but network {index} differs from "
                    "the first: stack only networks of one architecture."
                )
        dtypes = {parameter.dtype for parameter in states[0].values()}
        if len(dtypes) > 1:
            raise UserError(
                f"The parameters of a stacked network must have one dtype, but got {sorted(map(str, dtypes))}."
            )
        self.rows = _aligned_rows(
            torch.stack(
                [torch.cat([parameter.detach().flatten() for parameter in state.values()]) for state in states]
            ).to(dtype=dtype)
        )
        self.gradients = _aligned_rows(torch.zeros_like(self.rows))
        self.buffers = {name: torch.stack([of_network[name] for of_network in buffers]) for name in buffers[0]}
        self.buffers = {
            name: buffer.to(dtype=dtype) if buffer.is_floating_point() else buffer
            for name, buffer in self.buffers.items()
        }

    @property
    def size(self) -> int:
        """The number of networks, K."""
        return len(self.rows)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Split `rows`, (*leading, P), into views by parameter name, (*leading, *shape)."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        return {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for (name, shape), part in zip(self.shapes.items(), rows.split(sizes, -1), strict=True)
        }

    def parts(self) -> Iterator[Part]:
        """Yield the part of each child of the networks, in order."""
        parameters, gradients = self.views(self.rows), self.views(self.gradients)
        start = 0
        for name, module in self.template.named_children():
            end = start + sum(parameter.numel() for parameter in module.parameters())
            yield Part(
                self.rows[:, start:end],
                self.gradients[:, start:end],
                *(
                    {n.removeprefix(f"{name}."): each for n, each in all_of_them.items() if n.startswith(f"{name}.")}
                    for all_of_them in (parameters, gradients, self.buffers)
                ),
            )
            start = end

    def keep(self, indices: Sequence[int]) -> None:
        """Keep only the networks at `indices`."""
        chosen = torch.tensor(indices, device=self.rows.device)
        self.rows, self.gradients = _aligned_rows(self.rows[chosen]), _aligned_rows(self.gradients[chosen])
        self.buffers = {name: buffer[chosen] for name, buffer in self.buffers.items()}

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """Copy one network's state, with the names and order of `network.state_dict()`."""
        return self.copy(index)()

    def copy(self, index: int) -> Callable[[], dict[str, Tensor]]:
        """Copy the state now, as one block; return a function that splits it into a `state_dict` on demand."""
        row = self.rows[index].clone()
        buffers = {name: buffer[index].clone() for name, buffer in self.buffers.items()}

        def state_dict() -> dict[str, Tensor]:
            state = {name: view.clone() for name, view in self.views(row).items()} | buffers
            return {name: state[name] for name in self.template.state_dict()}

        return state_dict

    def load_state_dict(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Load a state that `state_dict` returned."""
        for name, view in self.views(self.rows[index]).items():
            view.copy_(state[name])
        for name, buffer in self.buffers.items():
            if name in state:
                buffer[index] = state[name]


def _aligned_rows(rows: Tensor) -> Tensor:
    """Align each of `rows` to a cache line, because the rounding of BLAS may depend on alignment.

    A network's results in the compiled step are then equal, to the bit, wherever in the stack it is.
    """
    line = 64 // rows.itemsize
    num_networks, num_parameters = rows.shape
    padded = rows.new_empty(num_networks, -(-num_parameters // line) * line)[:, :num_parameters]
    return padded.copy_(rows)


def _signature(state: Mapping[str, Tensor]) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, tensor.shape, tensor.dtype) for name, tensor in state.items()]
