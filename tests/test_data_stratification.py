"""The stratified split against scikit-learn's, which it stands for without importing it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bnlab.data import digits
from bnlab.data.stratification import stratified_indices
from bnlab.errors import UserError


def expected(classes, fraction, seed):
    parts = train_test_split(np.arange(len(classes)), test_size=fraction, random_state=seed, stratify=classes)
    return [sorted(part.tolist()) for part in parts]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.2 / 0.8, 1 / 3, 0.5, 0.77, 0.97])
@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 10])
def test_the_samples_are_those_of_scikit_learn(fraction, num_classes) -> None:
    """Many sizes, even ones, whose shares tie, too; what scikit-learn refuses is refused."""
    rng = np.random.default_rng(num_classes)
    num_split = 0
    for size in (2, 9, 10, 40, 100, 101, 317, 1797):
        even = np.arange(size) % num_classes
        skewed = np.minimum(rng.geometric(0.4, size), num_classes) * 3 - 4  # names are not indices
        for classes in (even, rng.permutation(even), skewed):
            for seed in (0, 1, 12345, 2**32 - 1):
                try:
                    indices = expected(classes, fraction, seed)
                except ValueError:
                    with pytest.raises(UserError):
                        stratified_indices(classes, fraction, seed)
                else:
                    assert [part.tolist() for part in stratified_indices(classes, fraction, seed)] == indices
                    num_split += 1
    assert num_split >= 12


@pytest.mark.parametrize(
    ("classes", "fraction", "message"),
    [
        ([0, 1] * 10, 0.05, "each of the 2 classes, but 20 samples cut by the fraction 0.05 are 19 and 1"),
        ([0, 1] * 10, 0.95, "20 samples cut by the fraction 0.95 are 1 and 19"),
        ([0, 0, 5, 0], 0.5, r"at least 2 samples to be split, but of \[5\] there is one"),
        ([0, 1] * 10, 0.0, "must be > 0 and < 1, but got 0.0"),
        ([0, 1] * 10, 1.0, "must be > 0 and < 1, but got 1.0"),
        ([], 0.5, "0 samples"),
    ],
)
def test_an_impossible_split_is_refused_with_its_numbers(classes, fraction, message) -> None:
    with pytest.raises(UserError, match=message):
        stratified_indices(np.array(classes, dtype=np.int64), fraction, 0)


@pytest.mark.parametrize("is_where_it_was", [True, False])
def test_digits_are_those_of_scikit_learn_split_by_it(is_where_it_was, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit; a version of scikit-learn that keeps the file elsewhere is asked itself."""
    if not is_where_it_was:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    images, classes = load_digits(return_X_y=True)
    rest, test = expected(classes, 0.2, 7)
    train, val = (np.array(rest)[part] for part in expected(classes[rest], 0.3 / (1 - 0.2), 7))
    splits = digits(val_fraction=0.3, test_fraction=0.2, split_seed=7)
    for split, indices in ((splits.train, train), (splits.val, val), (splits.test, test)):
        assert torch.equal(split.x, torch.from_numpy(images[indices]).float().div(16).reshape(-1, 1, 8, 8))
        assert torch.equal(split.y, torch.from_numpy(classes[indices]))


def test_scikit_learn_is_not_imported_which_would_take_a_second() -> None:
    code = "import sys; from bnlab.data import digits; digits(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
