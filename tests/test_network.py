import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlab.batch_norm import BatchNorm1d
from bnlab.errors import UserError
from bnlab.network import ACTIVATIONS, MLP, has_batch_norm


def layer_types(network: MLP) -> list[type]:
    return [type(layer) for layer in network]


def linear_layers(network: MLP) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def by_hand(network: MLP, x: torch.Tensor, placement: str) -> torch.Tensor:
    """The formulas of the docstring, with the statistics of this batch."""

    def normalize(z: torch.Tensor, layer: BatchNorm1d) -> torch.Tensor:
        return (z - z.mean(0)) / (z.var(0, unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias

    *hidden, output = linear_layers(network)
    norms = [layer for layer in network if isinstance(layer, BatchNorm1d)]
    a = x.reshape(len(x), -1)
    for linear, norm in zip(hidden, norms, strict=True):
        z = F.linear(a, linear.weight, linear.bias)
        a = torch.tanh(normalize(z, norm)) if placement == "before" else normalize(torch.tanh(z), norm)
    return F.linear(a, output.weight, output.bias)


@pytest.mark.parametrize("placement", ["before", "after"])
def test_mlp_computes_the_formulas_of_its_docstring(placement: str) -> None:
    network = MLP((1, 3, 4), 5, hidden=[7, 6], activation="tanh", norm=BatchNorm1d, placement=placement).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(9, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(network(x), by_hand(network, x, placement), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "placement", "activation", "has_bias"),
    [
        (BatchNorm1d, "before", "relu", False),
        (nn.BatchNorm1d, "before", "relu", False),
        (BatchNorm1d, "after", "relu", True),
        (BatchNorm1d, "after", "identity", False),  # nothing lies between: the norm follows directly
        (nn.LayerNorm, "before", "relu", True),  # subtracts a mean over features, not over the batch
        (None, "before", "relu", True),
    ],
)
def test_auto_bias_is_left_out_exactly_where_batch_norm_follows(norm, placement, activation, has_bias) -> None:
    network = MLP(4, 3, hidden=[5, 6], activation=activation, norm=norm, placement=placement)
    *hidden, output = linear_layers(network)
    assert [layer.bias is not None for layer in hidden] == [has_bias, has_bias]
    assert output.bias is not None


@pytest.mark.parametrize("bias", [True, False])
def test_forced_bias_is_obeyed_in_hidden_layers(bias: bool) -> None:
    *hidden, output = linear_layers(MLP(4, 3, hidden=[5, 6], norm=BatchNorm1d, bias=bias))
    assert [layer.bias is not None for layer in hidden] == [bias, bias]
    assert output.bias is not None


@pytest.mark.parametrize(("placement", "matters"), [("before", False), ("after", True)])
def test_bias_is_redundant_before_batch_norm_only(placement: str, matters: bool) -> None:
    x = torch.randn(20, 4, dtype=torch.float64)
    network = MLP(4, 3, hidden=[5], norm=BatchNorm1d, placement=placement, bias=True).double()
    before = network(x).detach()
    with torch.no_grad():
        linear_layers(network)[0].bias.add_(3)
    change = float((network(x).detach() - before).abs().max())
    assert change > 1e-3 if matters else change < 1e-12


def test_output_layer_has_neither_norm_nor_activation() -> None:
    assert layer_types(MLP(4, 3, hidden=[5], norm=BatchNorm1d)) == [
        nn.Flatten,
        nn.Linear,
        BatchNorm1d,
        nn.ReLU,
        nn.Linear,
    ]
    assert layer_types(MLP(4, 3, hidden=[])) == [nn.Flatten, nn.Linear]


def test_every_activation_builds_and_is_used() -> None:
    for name, activation in ACTIVATIONS.items():
        types = layer_types(MLP(4, 3, hidden=[5], activation=name))
        assert (activation in types) is (name != "identity")


def test_has_batch_norm_knows_both_layers() -> None:
    assert has_batch_norm(MLP(4, 3, norm=BatchNorm1d))
    assert has_batch_norm(MLP(4, 3, norm=nn.BatchNorm1d))
    assert not has_batch_norm(MLP(4, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": [0]}, r"`hidden` must be a list such as \[100,100\], each item a whole number >= 1, but got \[0\]"),
        ({"placement": "sideways"}, "`placement` must be 'before' or 'after', but got 'sideways'"),
        ({"bias": "maybe"}, "`bias` must be true or false or 'auto', but got 'maybe'"),
        ({"activation": "swoosh"}, "`activation` must be one of relu, .*, but got 'swoosh'"),
    ],
)
def test_impossible_networks_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MLP(4, 3, **arguments)
