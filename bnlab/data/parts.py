"""Cuts one set of samples into training, validation and test parts."""

import math
from collections.abc import Sequence

import torch

from bnlab.data.splits import Split, Splits, stratified_split
from bnlab.errors import UserError

__all__ = ["cut", "cut_off"]


def cut(
    whole: Split,
    num_classes: int | None,
    *,
    class_names: tuple[str, ...] | None = None,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
) -> Splits:
    """Cut `whole` into three random parts; the same seed gives the same parts.

    Args:
        num_classes: the number of classes, by which the parts are stratified; None if y are real numbers.
        val_fraction, test_fraction: shares of the whole, each > 0; together < 1.
    Raises:
        UserError: the fractions are impossible, or a part would be too small.
    """
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"`data.val_fraction` + `data.test_fraction` must stay below 1, but got {val_fraction} + {test_fraction}."
        )
    rest, test = cut_off(whole, test_fraction, split_seed, class_names)
    train, val = cut_off(rest, val_fraction / (1 - test_fraction), split_seed, class_names)
    return Splits(train, val, test, num_classes, class_names)


def cut_off(whole: Split, fraction: float, seed: int, class_names: Sequence[str] | None = None) -> tuple[Split, Split]:
    """Return the rest and a random `fraction` of `whole`, stratified if y are classes.

    Raises:
        UserError: a part would be too small.
    """
    if not whole.y.is_floating_point():
        return stratified_split(whole, fraction, seed, class_names)
    num_cut = math.ceil(fraction * len(whole))
    if not 0 < num_cut < len(whole):
        raise UserError(
            f"{len(whole)} samples cannot be split by the fraction {fraction:g}: choose another data.val_fraction or "
            "data.test_fraction."
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    remaining, taken = order[num_cut:].sort().values, order[:num_cut].sort().values
    return Split(whole.x[remaining], whole.y[remaining]), Split(whole.x[taken], whole.y[taken])
