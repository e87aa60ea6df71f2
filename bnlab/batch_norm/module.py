"""`BatchNorm1d`: a drop-in for torch.nn.BatchNorm1d on the hand-written formulas."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from bnlab.batch_norm.arithmetic import running
from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.checkpointing.recomputation import answered, recomputing
from bnlab.batch_norm.functional import check, normalize
from bnlab.errors import UserError
from bnlab.internals.torch_internals import MODULES_CALL_IMPL

__all__ = ["BatchNorm1d"]

new_settings: Any = tuple.__new__

CALL = nn.Module.__call__  # to notice when someone, such as torch.fx, replaces it


class BatchNorm1d(nn.BatchNorm1d):
    r"""Batch norm over (N, C) or (N, C, L), a drop-in for `torch.nn.BatchNorm1d`; see `batch_norm` for the formulas.

    It works with `torch.fx`, `torch.export`, `torch.jit.trace` and, as torch's own layer, `torch.jit.script`. Functions
    that match layers by their exact type do not recognize it: `torch.ao.quantization.fuse_modules` finds no fuser
    method unless it is given `fuse_custom_config_dict={"additional_fuser_method_mapping": {(nn.Linear,
    BatchNorm1d): fuse_linear_bn}}`; `fold` does the same.

    Args:
        num_features: C.
        eps: added to the variance, in units of the input squared.
        momentum: the weight of the new statistic in the running ones; None averages all batches equally.
        affine: learn a weight and a bias per channel.
        track_running_stats: keep running statistics and evaluate with them.
        device, dtype: of parameters and buffers.
        bias: with `affine`, learn the bias too.
        fp32_buffers: keep the running statistics in fp32 when the module is moved to a half type, whose 8 or 11 bits
            are too few to average in.
    """

    # Defined on the class, so that a module that was pickled or built without them has them too.
    fp32_buffers = False
    frozen = False
    trainable_before: Sequence[str] = ("weight", "bias")  # before freezing; `unfreeze` lets these learn again
    mode_to_return_to = True  # the last mode that `train` was asked for, frozen or not

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        fp32_buffers: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:  # torch's own layer has this argument only since 2.12
            self.register_parameter("bias", None)
        if fp32_buffers:
            self.fp32_buffers = True
            self.in_fp32(self.running_mean, self.running_var)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", fp32_buffers=True" if self.fp32_buffers else "")

    def train(self, mode: bool = True) -> Self:
        if self.frozen:
            self.mode_to_return_to, mode = mode, False
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.running_mean, self.running_var
        super()._apply(fn, recurse)
        if self.fp32_buffers:
            self.in_fp32(*before)
        return self

    def __prepare_scriptable__(self) -> nn.BatchNorm1d:
        """Return what `torch.jit.script` compiles instead: torch's own layer, with the same parameters and buffers."""
        if type(self).forward is not BatchNorm1d.forward:
            raise UserError(
                f"torch.jit.script can compile a BatchNorm1d, in whose place it puts torch's own, but not a "
                f"{type(self).__name__}: use `torch.jit.trace` in evaluation mode."
            )
        layer = nn.BatchNorm1d.__new__(nn.BatchNorm1d)
        layer.__dict__.update(self.__dict__)
        return layer

    def in_fp32(self, running_mean: Tensor | None, running_var: Tensor | None) -> None:
        """If a buffer was cast to a half type, restore its value from before, on its current device."""
        for name, before in (("running_mean", running_mean), ("running_var", running_var)):
            now = getattr(self, name)
            if now is not None and before is not None and now.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before.to(now.device, torch.float32))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer. For `torch.fx` it is a leaf, like torch's own: mode and statistics stay in the layer."""
        if isinstance(args[0] if args else kwargs.get("input"), Proxy):
            return call_in_graph(self, *args, **kwargs)
        if MODULES_CALL_IMPL and CALL is nn.Module.__call__ and self._compiled_call_impl is None:  # saves one call
            return self._call_impl(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _check_input_dim(self, input: Tensor) -> None:
        """Raise torch's own error."""
        if input.dim() not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {input.dim()}D input)")

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize `input`; samples where `mask`, (N,) or (N, L), is false give 0 and enter no statistic."""
        if input.dim() not in (2, 3):
            self._check_input_dim(input)
        try:  # bypass nn.Module.__getattr__, which costs more than a small batch norm's arithmetic
            parameters, buffers = self._parameters, self._buffers
            weight, bias = parameters["weight"], parameters["bias"]
            running_mean, running_var = buffers["running_mean"], buffers["running_var"]
            num_batches_tracked = buffers["num_batches_tracked"]
        except (AttributeError, KeyError):  # a parametrization replaced them, or there is no such dict
            weight, bias, num_batches_tracked = self.weight, self.bias, self.num_batches_tracked
            running_mean, running_var = self.running_mean, self.running_var
        training = self.training
        if not training:
            training, num_batches_tracked = running_mean is None and running_var is None, None
        elif not self.track_running_stats:
            running_mean = running_var = num_batches_tracked = None
        # As `Settings(...)`, without the call of a Python function that this is.
        settings = new_settings(
            Settings, (running_mean, running_var, num_batches_tracked, self.momentum, self.eps, mask, 0, False)
        )
        return normalize(input, weight, bias, settings, training)

    def check(self, input: Tensor, mask: Tensor | None) -> None:
        """Refuse what a training forward refuses; variants call this, because parts of a batch would not show it."""
        self._check_input_dim(input)
        check(input, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.eps, mask, 0)

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, mask: Tensor | None = None) -> None:
        """Update the running statistics with a batch's mean and unbiased variance, (C,), unless it was counted."""
        if self.track_running_stats:
            buffers = self.running_mean, self.running_var, self.num_batches_tracked
            settings = Settings(*buffers, self.momentum, self.eps, mask, 0)
            running.move(mean, var, settings, recomputed=answered(recomputing(), mean))


def call_in_graph(layer: BatchNorm1d, *args: Any, **kwargs: Any) -> Any:
    """Call the layer as one node of the graph that the input's tracer builds."""
    tracer = next(value for value in (*args, *kwargs.values()) if isinstance(value, Proxy)).tracer

    def leaf(*args: Any, **kwargs: Any) -> Any:
        return tracer.create_proxy("call_module", tracer.path_of_module(layer), args, kwargs)

    return tracer.call_module(layer, leaf, args, kwargs)
