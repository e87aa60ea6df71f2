"""Batch normalization, forward and backward written by hand. Imports torch alone."""

from bnlab.batch_norm.function import BatchNormFunction, FixedStatisticsFunction
from bnlab.batch_norm.functional import batch_norm
from bnlab.batch_norm.module import BatchNorm1d

__all__ = ["BatchNorm1d", "BatchNormFunction", "FixedStatisticsFunction", "batch_norm"]
