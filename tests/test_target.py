"""What a config names is built as Hydra builds it, and what is not ours is left to Hydra and its rules."""

import functools
from pathlib import Path

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from bnlab.composing import compose
from bnlab.config.build import arguments_of
from bnlab.config.folder import config_folder
from bnlab.config.target import build_target
from bnlab.errors import UserError, user_errors

GROUPS = [
    (group, path.stem)
    for group in ("optimizer", "scheduler", "norm")
    for path in sorted(Path(config_folder(), group).glob("*.yaml"))
]


@pytest.fixture
def calls_of_hydra(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    targets: list[str] = []
    instantiate = hydra.utils.instantiate

    def remember(config, **objects):
        targets.append(config["_target_"])
        return instantiate(config, **objects)

    monkeypatch.setattr("hydra.utils.instantiate", remember)
    return targets


@pytest.mark.parametrize(("group", "choice"), GROUPS)
def test_every_choice_is_what_hydra_makes_of_it(group, choice, calls_of_hydra) -> None:
    config = compose([f"{group}={choice}"])
    arguments = arguments_of(config[group], "placement", "beta1", "beta2")
    if arguments["_target_"] is None:
        return
    ways = (build_target, functools.partial(hydra.utils.instantiate, _convert_="all"))
    if group == "norm":
        own, expected = (way({**arguments, "_partial_": True}) for way in ways)
        assert calls_of_hydra == [arguments["_target_"]]  # the second
        assert own.keywords == expected.keywords
        own, expected = own(7), expected(7)
        assert repr(own) == repr(expected)
    elif group == "optimizer":
        parameters = [torch.nn.Parameter(torch.ones(2))]
        own, expected = (way(arguments, params=parameters) for way in ways)
        assert own.state_dict() == expected.state_dict()
    else:
        optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0) for _ in ways]
        own, expected = (way(arguments, optimizer=optimizer) for way, optimizer in zip(ways, optimizers, strict=True))
        assert {k: v for k, v in own.state_dict().items() if k != "lr_lambdas"} == {
            k: v for k, v in expected.state_dict().items() if k != "lr_lambdas"
        }
    assert type(own) is type(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"_target_": "collections.Counter", "a": 1},
        {"_target_": "builtins.dict", "steps": [1, 2]},
        {"_target_": "bnlab.runs.history.History", "objective": {"_target_": "builtins.str"}},
        {"_target_": "bnlab.runs.history.History", "_args_": ["val_loss"]},
    ],
)
def test_what_is_not_ours_or_not_plain_goes_by_hydra(arguments, calls_of_hydra) -> None:
    built = build_target(arguments)
    assert calls_of_hydra == [arguments["_target_"]]
    assert type(built).__name__ == arguments["_target_"].rpartition(".")[2]


@pytest.mark.parametrize("target", ["os.system", "bnlab.train.os.system", "bnlab.io.atomic_file.os.system"])
def test_what_hydra_forbids_stays_forbidden(target) -> None:
    with pytest.raises(hydra.errors.InstantiationException):
        build_target({"_target_": target, "command": "true"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"_target_": "torch.optim.SGD", "lr": -1.0},
        {"_target_": "torch.optim.SGD", "learning_rate": 1.0},
        {"_target_": "torch.optim.Nothing", "lr": 1.0},
        {"_target_": "bnlab.nowhere.Thing"},
        {"_target_": ["bnlab"]},
        {"_target_": "bnlab.batch_norm.BatchNorm1d", "num_features": 3, "nonsense": 1},
    ],
)
def test_a_mistake_is_said_as_hydra_would_have_it_said(arguments) -> None:
    texts = []
    objects = {"params": [torch.nn.Parameter(torch.ones(1))]} if "torch" in arguments["_target_"] else {}
    for way in (build_target, functools.partial(hydra.utils.instantiate, _convert_="all")):
        with pytest.raises(UserError) as error, user_errors("`group`: "):
            way(arguments, **objects)
        texts.append(str(error.value))
    assert texts[0] == texts[1]


def test_lists_are_lists_for_the_target() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    config = OmegaConf.create({"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [2, 3]})
    assert build_target(arguments_of(config), optimizer=optimizer).milestones == {2: 1, 3: 1}
