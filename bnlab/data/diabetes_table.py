"""A data set for regression that needs no download."""

import torch

from bnlab.data.parts import cut
from bnlab.data.splits import Split, Splits

__all__ = ["diabetes"]


def diabetes(*, val_fraction: float = 0.2, test_fraction: float = 0.2, split_seed: int = 0) -> Splits:
    """Load 442 patients: age, sex, body mass index, blood pressure and six blood serum measurements. The target, 25 to
    346, measures the progression of the disease in a year. Random splits; shipped with scikit-learn.

    Source: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least Angle Regression, Annals of Statistics, 2004.
    """
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    whole = Split(torch.from_numpy(x), torch.from_numpy(y))
    return cut(whole, None, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)
