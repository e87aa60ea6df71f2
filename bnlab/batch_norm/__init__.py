"""Batch normalization with forward and backward written by hand; this package imports nothing but torch.

`BatchNorm1d` is the layer, `batch_norm` its functional form, and `BatchNormFunction` the formulas as a Function.
"""

from bnlab.batch_norm.back_ends.kernel import use_kernel
from bnlab.batch_norm.convert import convert
from bnlab.batch_norm.fold import fold, unfold
from bnlab.batch_norm.freeze import freeze, unfreeze
from bnlab.batch_norm.function import BatchNormFunction
from bnlab.batch_norm.functional import batch_norm
from bnlab.batch_norm.ghost import GhostBatchNorm1d
from bnlab.batch_norm.module import BatchNorm1d
from bnlab.batch_norm.recalibrate import recalibrate
from bnlab.batch_norm.renorm import BatchRenorm1d

__all__ = [
    "BatchNorm1d",
    "BatchNormFunction",
    "BatchRenorm1d",
    "GhostBatchNorm1d",
    "batch_norm",
    "convert",
    "fold",
    "freeze",
    "recalibrate",
    "unfold",
    "unfreeze",
    "use_kernel",
]
