"""Torch's layers made ours and back, in a model that is in use."""

import copy
import pickle

import pytest
import torch
from torch import nn

import bnlab
from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, freeze
from bnlab.errors import UserError


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.BatchNorm1d(4, eps=0.1, momentum=None)
    layers = (nn.Linear(3, 4), shared, nn.ReLU(), nn.Linear(4, 4), shared, nn.BatchNorm1d(4, affine=False))
    return nn.Sequential(*layers, nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    outputs = []
    for step in range(steps):
        x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        y = model(x)
        optimizer.zero_grad()
        y.pow(3).mean().backward()
        optimizer.step()
        outputs.append(y.detach())
    return outputs


def test_a_model_trains_on_as_it_would_have_with_torchs_layers_and_back_again() -> None:
    model, expected = make_model(), make_model()
    optimizer, expected_optimizer = (
        torch.optim.SGD(one.parameters(), lr=1e-3, momentum=0.9) for one in (model, expected)
    )
    for to in ("torch", "bnlab", "torch"):
        assert bnlab.convert(model, to) is model
        kinds = {type(module) for module in model.modules() if isinstance(module, nn.BatchNorm1d)}
        assert kinds == {BatchNorm1d if to == "bnlab" else nn.BatchNorm1d}
        for mine, torchs in zip(train(model, optimizer, 3), train(expected, expected_optimizer, 3), strict=True):
            torch.testing.assert_close(mine, torchs, rtol=1e-10, atol=1e-10)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=1e-10)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), expected.eval()(x), rtol=1e-10, atol=1e-10)


def test_layers_stay_the_objects_that_they_are_with_their_hooks_and_mode() -> None:
    model = make_model()
    model[5].eval()
    calls: list[str] = []
    handle = model[1].register_forward_hook(lambda *_: calls.append("hook"))
    before, parameters = list(model.modules()), list(model.parameters())
    bnlab.convert(model)
    assert all(now is was for now, was in zip(model.modules(), before, strict=True))
    assert all(now is was for now, was in zip(model.parameters(), parameters, strict=True))
    assert model[1] is model[4]
    assert not model[5].training
    model(torch.randn(4, 3, dtype=torch.float64))
    assert calls == ["hook", "hook"]
    handle.remove()
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(same[1]) is BatchNorm1d
        assert repr(same) == repr(model)


def test_what_computes_something_else_is_left_alone_or_refused() -> None:
    class Own(nn.BatchNorm1d):
        pass

    others = nn.Sequential(Own(2), nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.LayerNorm(2))
    kinds = [type(module) for module in others]
    assert [type(module) for module in bnlab.convert(others)] == kinds
    frozen = BatchNorm1d(2)
    freeze(frozen)
    for layer, told in (
        (GhostBatchNorm1d(2, virtual_batch_size=2), "'1' is a GhostBatchNorm1d, which torch has no counterpart of"),
        (BatchRenorm1d(2), "'1' is a BatchRenorm1d"),
        (frozen, "'1' is frozen"),
    ):
        model = nn.Sequential(BatchNorm1d(2), layer)
        with pytest.raises(UserError, match=told):
            bnlab.convert(model, "torch")
        assert type(model[0]) is BatchNorm1d
    with pytest.raises(UserError, match="`to` must be 'bnlab' or 'torch', but got 'jax'"):
        bnlab.convert(model, "jax")
    assert type(bnlab.convert(nn.BatchNorm1d(2))) is BatchNorm1d
