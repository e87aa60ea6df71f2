"""What a network of the user's own gives is held before anything is computed from it, by each way of training."""

import re

import pytest
import torch
from torch import nn

from bnlab.errors import UserError
from bnlab.stacked.formulas.criterion import CLASSES, NUMBERS
from bnlab.stacked.networks.module import StackedModule
from bnlab.training.lightning.classifier import Classifier
from bnlab.training.lightning.regressor import Regressor

N = 2  # (K, 2, 2) - (2,) broadcasts: a batch of this size was trained on without a word


class Own(nn.Module):
    """A linear layer of a width, and something done with what it gives."""

    def __init__(self, width, change):
        super().__init__()
        self.linear = nn.Linear(3, width)
        self.change = change

    def forward(self, x):
        return self.change(self.linear(x))


def train_alone(network, num_outputs):
    x, y = torch.randn(N, 3), torch.tensor([0, 1])
    learner = Regressor(network) if num_outputs == 1 else Classifier(network, num_classes=num_outputs)
    return learner._step((x, y.float() if num_outputs == 1 else y), "train")


def train_stacked(network, num_outputs):
    criterion = NUMBERS if num_outputs == 1 else CLASSES
    StackedModule([network], criterion=criterion).try_out(torch.randn(N, 3), num_outputs)


CASES = {
    "too wide": (4, lambda z: z, "(2, 4)"),
    "too narrow": (2, lambda z: z, "(2, 2)"),
    "no width": (3, lambda z: z[:, 0], "(2,)"),
    "too deep": (3, lambda z: z[:, :, None], "(2, 3, 1)"),
    "too few": (3, lambda z: z[:1], "(1, 3)"),
    "no tensor": (3, lambda z: (z, z), "an object of type tuple"),
    "whole": (3, lambda z: z.long(), "numbers of the type int64"),
    "complex": (3, lambda z: z + 0j, "numbers of the type complex64"),
}


@pytest.mark.parametrize("train", [train_alone, train_stacked])
@pytest.mark.parametrize("case", CASES)
def test_a_classifier_gives_a_number_per_sample_and_class(case, train) -> None:
    width, change, given = CASES[case]
    told = f"one real number per sample and class, (2, 3), but returns {given}."
    with pytest.raises(UserError, match=re.escape(told)):
        train(Own(width, change), 3)


@pytest.mark.parametrize("train", [train_alone, train_stacked])
@pytest.mark.parametrize(
    ("width", "change", "given"),
    [(2, lambda z: z, "(2, 2)"), (1, lambda z: z[:, 0], "(2,)"), (1, lambda z: z[:, :, None], "(2, 1, 1)")],
    ids=["two", "flat", "deep"],
)
def test_a_regressor_gives_one_number_per_sample(width, change, given, train) -> None:
    with pytest.raises(UserError, match=re.escape(f"one real number per sample, (2, 1), but returns {given}.")):
        train(Own(width, change), 1)


def test_none_is_named() -> None:
    with pytest.raises(UserError, match="but returns None"):
        train_alone(Own(3, lambda z: None), 3)


def test_what_is_right_is_taken() -> None:
    for num_outputs in (1, 3):
        train_stacked(Own(num_outputs, lambda z: z), num_outputs)
        assert train_alone(Own(num_outputs, lambda z: z), num_outputs).isfinite()
    assert train_alone(Own(5, lambda z: z), None).isfinite()  # the width is not known
