"""Replaces scikit-learn's `train_test_split`, whose import slows every start; delete when that import is cheap.

Decides which samples go to which part, in equal proportions for each class. Figures:
bnlab/bench/records/library_functions.md.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bnlab.errors import UserError

__all__ = ["stratified_indices"]

_Integers = NDArray[np.int64]


def stratified_indices(
    classes: NDArray[np.integer], fraction: float, seed: int, class_names: Sequence[str] | None = None
) -> tuple[_Integers, _Integers]:
    """Cut off a random `fraction` of the samples, stratified by class.

    The same generator makes the same draws as in scikit-learn's `train_test_split(test_size=fraction,
    random_state=seed, stratify=classes)`, on which published results rest.

    Args:
        classes: (N,), the class of each sample.
        fraction: between 0 and 1; ceil(fraction N) samples are cut off.
        seed: the seed of `numpy.random.RandomState`.
        class_names: the user's names of the classes 0, 1, ..., for errors.
    Returns:
        the indices of what remains and of what was cut off, each in ascending order.
    Raises:
        UserError: a part would have fewer samples than there are classes, a class has a single sample, or the fraction
            is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(f"The fraction to split off must be > 0 and < 1, but got {fraction}.")
    num_samples = len(classes)
    num_cut = math.ceil(fraction * num_samples)
    num_remaining = num_samples - num_cut
    names, of_sample, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if counts.min(initial=2) < 2:
        rare = [number if class_names is None else class_names[number] for number in names[counts < 2].tolist()]
        raise UserError(
            f"Each class needs at least 2 samples to be split, but of {rare} there is one among {num_samples}: leave "
            "such classes out, or choose another data.val_fraction or data.test_fraction."
        )
    if min(num_cut, num_remaining) < max(len(names), 1):
        raise UserError(
            f"Each part of a split needs a sample of each of the {len(names)} classes, but {num_samples} samples cut "
            f"by the fraction {fraction:g} are {num_remaining} and {num_cut}: choose another data.val_fraction or "
            "data.test_fraction."
        )
    generator = np.random.RandomState(seed)
    remaining_counts = _shares(counts, num_remaining, generator)
    cut_counts = _shares(counts - remaining_counts, num_cut, generator)  # all the rest; advances the generator
    of_class = np.split(np.argsort(of_sample, kind="stable"), np.cumsum(counts)[:-1])
    remaining, cut = [], []
    for indices, num_remaining_here, num_cut_here in zip(of_class, remaining_counts, cut_counts, strict=True):
        shuffled = indices[generator.permutation(len(indices))]
        remaining.append(shuffled[:num_remaining_here])
        cut.append(shuffled[num_remaining_here : num_remaining_here + num_cut_here])
    return np.sort(np.concatenate(remaining)), np.sort(np.concatenate(cut))


def _shares(counts: _Integers, total: int, generator: np.random.RandomState) -> _Integers:
    """Apportion `total` to `counts` by the largest remainder method; ties are drawn at random."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    remainders = exact - shares
    left = int(total - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if left <= 0:
            break
        (tied,) = np.nonzero(remainders == remainder)
        chosen = generator.choice(tied, size=min(len(tied), left), replace=False)
        shares[chosen] += 1
        left -= len(chosen)
    return shares.astype(int)
