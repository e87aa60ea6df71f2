"""What a config names is built by Hydra, under its rules of what may be called, and gets plain lists."""

import hydra.errors
import pytest
import torch
from omegaconf import OmegaConf

from bnlab.internals.hydra_internals import instantiate
from bnlab.training.optimizer import build_optimizer, build_scheduler


@pytest.mark.parametrize("target", ["os.system", "bnlab.train.os.system", "bnlab.io.atomic_file.os.system"])
def test_what_hydra_forbids_stays_forbidden(target) -> None:
    with pytest.raises(hydra.errors.InstantiationException):
        instantiate({"_target_": target, "command": "true"}, _convert_="all")


def test_lists_are_lists_for_the_target() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    config = OmegaConf.create({"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [2, 3]})
    scheduler = build_scheduler(config, optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.MultiStepLR)
    assert scheduler.milestones == {2: 1, 3: 1}


def test_an_optimizer_holds_the_very_parameters_that_it_is_given() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    config = OmegaConf.create({"_target_": "torch.optim.Adam", "lr": 0.1, "beta1": 0, "beta2": 0.9})
    optimizer = build_optimizer(config, [weight])
    assert optimizer.param_groups[0]["params"][0] is weight
    assert tuple(optimizer.defaults["betas"]) == (0.0, 0.9)  # a list, in older versions of torch
