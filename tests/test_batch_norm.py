"""The layer against torch's own, and against float64."""

import pytest
import torch

from bnlab.batch_norm import BatchNorm1d

OPTIONS = {
    "default": {},
    "not_affine": {"affine": False},
    "no_bias": {"bias": False},
    "untracked": {"track_running_stats": False},
    "momentum_none": {"momentum": None},
    "eps_and_momentum": {"eps": 0.1, "momentum": 0.7},
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (3, 5), (1, 5, 3)], ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_batch_norm_matches_torch(options: str, shape: tuple[int, ...], mode: str) -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm1d(5, **OPTIONS[options]), torch.nn.BatchNorm1d(5, **OPTIONS[options])
    if ours.weight is not None:
        torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        x, g = torch.randn(shape) * 3 + 1, torch.randn(shape)
        ours.train(mode == "train"), theirs.train(mode == "train")
        x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
        torch.testing.assert_close(y_ours, y_theirs, rtol=1e-5, atol=2e-6)
        y_ours.backward(g), y_theirs.backward(g)
        torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-5, atol=5e-6)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=5e-6)
        torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=1e-5, atol=1e-6)
