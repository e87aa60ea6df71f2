"""`python -m bnlab.look`: what it says of each layer, against what the network does by hand."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded import record, record_network
from torch import Tensor, nn

import bnlab
from bnlab import MLP, BatchNorm1d
from bnlab.batch_norm import BatchRenorm1d, GhostBatchNorm1d
from bnlab.config.build import build_splits
from bnlab.data import Batches, EpochOrder
from bnlab.data.fingerprint import fingerprint
from bnlab.figures import picture
from bnlab.figures.inside import MOST_ROWS, inside
from bnlab.inside.inspection import inspect
from bnlab.inside.layers import batch_statistics, layers_of
from bnlab.inside.table import row_of
from bnlab.look import main

NORMS = {"ours": BatchNorm1d, "torch": nn.BatchNorm1d, "ghost": GhostBatchNorm1d, "renorm": BatchRenorm1d}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command_of: Callable) -> Callable:
    monkeypatch.chdir(tmp_path)
    return command_of(main)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    record_network(folder / "batch")
    record_network(folder / "none", "norm=none")
    record_network(folder / "after", "norm=torch", "norm.placement=after", "data.normalize=false")
    return folder


def moved(network: nn.Module) -> nn.Module:
    """With parameters and running statistics that are none of their first values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator))
    return network


X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("placement", ["before", "after"])
def test_what_goes_into_each_norm_and_comes_out_is_what_the_formulas_give(norm: str, placement: str) -> None:
    network = moved(MLP(6, 3, hidden=[5, 4], norm=NORMS[norm], placement=placement, activation="tanh"))
    layers = layers_of(network, X)
    assert [layer.name for layer in layers] == ["layer 1", "layer 2", "output"]
    a = X
    linears = [module for module in network if isinstance(module, nn.Linear)]
    norms = [module for module in network if isinstance(module, nn.BatchNorm1d)]
    for layer, linear, of_layer in zip(layers, linears, norms, strict=False):
        z = F.linear(a, linear.weight, linear.bias)
        before = z if placement == "before" else torch.tanh(z)
        after = (before - of_layer.running_mean) / torch.sqrt(of_layer.running_var + of_layer.eps)
        after = after * of_layer.weight + of_layer.bias
        torch.testing.assert_close(layer.before, before)
        torch.testing.assert_close(layer.after, after)
        torch.testing.assert_close((layer.weight, layer.bias), (of_layer.weight.detach(), of_layer.bias.detach()))
        slope = 1 - torch.tanh(after if placement == "before" else z) ** 2
        torch.testing.assert_close(layer.active, (slope >= 0.01).float().mean(0))
        a = torch.tanh(after) if placement == "before" else after
    torch.testing.assert_close(layers[-1].before, network(X))


def test_dead_units_are_those_that_no_sample_wakes() -> None:
    network = MLP(6, 3, hidden=[5], activation="relu", norm=None)
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([0.0, -100.0, 100.0, 0.0, -100.0]))
    layer = layers_of(network, X)[0]
    assert layer.num_dead == 2
    assert layer.active[[1, 2, 4]].tolist() == [0, 1, 0]
    torch.testing.assert_close(layer.active, (network[1](X) > 0).float().mean(0))
    assert (layer.after, layer.weight, layer.running_mean) == (None, None, None)
    leaky = MLP(6, 3, hidden=[5], activation="leaky_relu", norm=None)
    assert layers_of(leaky, X)[0].num_dead == 0


@pytest.mark.parametrize("norm", NORMS)
def test_statistics_of_batches_are_those_of_what_the_norm_gets_in_training_and_move_nothing(norm: str) -> None:
    network = moved(MLP(6, 3, hidden=[5, 4], norm=NORMS[norm])).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = X.split(20)
    found = batch_statistics(network, batches)
    assert not network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    first, second = (name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm1d))
    assert list(found) == [first, second]
    z = [F.linear(batch, network[1].weight) for batch in batches]
    torch.testing.assert_close(found[first].mean, torch.stack([of_batch.mean(0) for of_batch in z]))
    torch.testing.assert_close(found[first].var, torch.stack([of_batch.var(0) for of_batch in z]))
    if norm in ("ours", "torch"):
        a = [network[3](F.batch_norm(of_batch, None, None, network[2].weight, network[2].bias, True)) for of_batch in z]
        of_second = torch.stack([F.linear(of_batch, network[4].weight).mean(0) for of_batch in a])
        torch.testing.assert_close(found[second].mean, of_second)


class Own(nn.Module):
    """Convolutions, a module that is used twice, work in place, a norm of its own, and names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(12, 4)
        self.norm = OwnNorm()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        return torch.softmax(self.head(self.relu(self.norm(self.fc(x.flatten(1))))), 1)


class OwnNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


def test_a_network_of_somebodys_own_is_seen_as_far_as_its_modules_are_torchs() -> None:
    network = moved(Own())
    images = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    statistics = batch_statistics(network, [images, images[:3]])
    first, second, output = layers_of(network, images, statistics)
    assert [layer.name for layer in (first, second, output)] == ["conv", "fc", "output"]
    z = network.conv(images)
    torch.testing.assert_close(first.before, z.movedim(1, -1).reshape(-1, 3))
    torch.testing.assert_close(first.after, network.bn(z).movedim(1, -1).reshape(-1, 3))
    active = (network.bn(z) > 0).float().mean((0, 2, 3))
    torch.testing.assert_close(first.active, active)
    torch.testing.assert_close(statistics["bn"].mean[0], z.mean((0, 2, 3)))
    torch.testing.assert_close(statistics["bn"].var[1], z[:3].transpose(0, 1).flatten(1).var(1))
    assert second.before.shape == second.after.shape == (7, 4)
    torch.testing.assert_close(second.after, network.norm(second.before))
    assert (second.weight, second.batches) == (None, None)
    assert (output.num_units, output.after) == (2, None)


def test_the_table_has_the_numbers_of_the_run(runs: Path, command: Callable, tmp_path: Path) -> None:
    done = command(runs / "batch", "--output", "inside.csv")
    assert done.exit_code == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["inside.csv"]
    with (tmp_path / "inside.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["units"]) for row in rows] == [
        *((f"layer {number}", "100") for number in (1, 2, 3)),
        ("output", "10"),
    ]
    run = bnlab.load(runs / "batch")
    splits = build_splits(run.config)
    z = F.linear(run.normalization(splits.val.x).flatten(1), run.network[1].weight)
    norm = run.network[2]
    assert float(rows[0]["before mean"]) == pytest.approx(z.double().mean().item(), rel=1e-4)
    assert float(rows[0]["before deviation"]) == pytest.approx(z.double().std(correction=0).item(), rel=1e-4)
    assert float(rows[0]["γ mean"]) == pytest.approx(norm.weight.mean().item(), rel=1e-5)
    assert int(rows[0]["dead"]) == ((norm(z) > 0).sum(0) == 0).sum()
    assert float(rows[0]["active"]) == pytest.approx((norm(z) > 0).float().mean().item(), abs=1e-4)
    order = EpochOrder(len(splits.train), 0)
    of_batches = [
        F.linear(run.normalization(x).flatten(1), run.network[1].weight) for x, _ in Batches(splits.train, 64, order)
    ]
    mean = torch.stack([of_batch.mean(0) for of_batch in of_batches]).mean(0)
    var = torch.stack([of_batch.var(0) for of_batch in of_batches]).mean(0)
    off = np.median(((norm.running_mean - mean).abs() / var.sqrt())[var > 0].detach().numpy())
    assert float(rows[0]["mean off"]) == pytest.approx(off, rel=2e-2)
    assert f"{float(rows[0]['before mean']):.3f} ± {float(rows[0]['before deviation']):.3f}" in done.stdout
    words = done.stdout.split()
    assert f"{float(rows[0]['mean off']):.3g}" in words
    assert "360 samples of the validation" in done.stdout


@pytest.mark.parametrize(("run", "columns"), [("batch", 4), ("none", 2), ("after", 4)])
def test_the_picture_shows_what_the_layers_are(runs: Path, run: str, columns: int) -> None:
    inspection = inspect(runs / run)
    figure = inspection.figure()
    assert picture(figure).startswith(b"\x89PNG")
    assert inspection.notes()[0] in figure.get_suptitle().replace("\n", " ")
    grid = np.array(figure.axes).reshape(3, columns)
    for row, layer in zip(grid, inspection.layers, strict=False):
        values = row[0]
        heights = [patch.get_xy()[:, 1].max() for patch in values.patches]
        assert len(heights) == (1 if run == "none" else 2)
        shown = np.histogram(layer.before.numpy(), np.linspace(*_ends(values), 61))[0] / layer.before.numel()
        assert heights[0] == pytest.approx(shown.max(), rel=1e-6)
        if run != "none":
            lines = {line.get_label(): line.get_ydata() for line in row[1].lines}
            np.testing.assert_allclose(lines["γ"], np.sort(layer.weight.numpy()))
            np.testing.assert_allclose(lines["β"], np.sort(layer.bias.numpy()))
            points = {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in row[2].lines}
            x, y = points["mean of a unit"]
            np.testing.assert_allclose(x, layer.batches.mean.mean(0).numpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(y, layer.running_mean.numpy(), rtol=1e-6)
        assert f"{layer.num_dead} of 100 dead" in row[-1].get_xlabel()
    assert figure.get_suptitle().startswith("digits, 100-100-100 relu, norm")


def _ends(panel) -> tuple[float, float]:
    x = panel.patches[0].get_xy()[:, 0]
    return x.min(), x.max()


def test_of_many_layers_some_are_drawn_and_dead_units_are_marked() -> None:
    network = MLP(6, 3, hidden=[5] * 10, norm=None)
    with torch.no_grad():
        network[1].bias.fill_(-100.0)
    layers = layers_of(network, X)
    figure = inside(layers, "a title")
    assert len(figure.axes) == 2 * MOST_ROWS
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [f"layer {number}" for number in (1, 3, 5, 6, 8, 10)]
    (marks,) = [line for line in figure.axes[1].lines if line.get_label() == "dead"]
    assert list(marks.get_xdata()) == [1, 2, 3, 4, 5]
    assert "6 of 10 layers" in figure.get_suptitle()
    (alone,) = inside(layers_of(MLP(6, 3, hidden=[]), X), "softmax regression").axes
    assert alone.get_ylabel() == "output"


def test_constant_and_infinite_values_are_drawn_all_the_same() -> None:
    network = MLP(6, 3, hidden=[5], norm=BatchNorm1d)
    with torch.no_grad():
        network[1].weight.zero_()
        network[2].bias[0] = float("inf")
    layers = layers_of(network, X, batch_statistics(network, [X]))
    assert picture(inside(layers, "dead")).startswith(b"\x89PNG")
    assert row_of(layers[0])["mean off"] == 0.0


def test_all_four_files_go_to_a_new_folder_by_default(runs: Path, command: Callable, tmp_path: Path) -> None:
    assert command(runs / "none").exit_code == 0
    (folder,) = tmp_path.glob("outputs/looks/*/*")
    starts = {"inside.png": b"\x89PNG", "inside.svg": b"<?xml", "inside.pdf": b"%PDF", "inside.csv": b"layer,units"}
    assert {file.name for file in folder.iterdir()} == starts.keys()
    for name, start in starts.items():
        assert (folder / name).read_bytes().startswith(start)
    svg = ElementTree.parse(folder / "inside.svg")
    assert "units by how often they are active" in {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    pdf = (folder / "inside.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # letters with their font, which journals ask for instead of drawings of each
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    refused = command(runs / "none", "--output", folder / "inside.csv")
    assert (refused.exit_code, "exists already" in refused.stderr) == (2, True)


def test_code_of_a_strangers_run_is_run_only_when_told_so(command: Callable, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "strange.py").write_text(
        "from pathlib import Path\nfrom bnlab import MLP\n"
        "def network(**arguments):\n    Path('was_run').touch()\n    return MLP(**arguments)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = record_network(tmp_path / "run", "norm=none", num_steps=1)
    config = (folder / "config.yaml").read_text().replace("bnlab.network.MLP", "strange.network")
    (folder / "config.yaml").write_text(config.replace("  num_layers: 3\n", "").replace("  num_units: 100\n", ""))
    refused = command(folder)
    assert refused.exit_code == 2
    assert "asks for 'strange.network' in `model`" in refused.stderr
    assert "--trust" in refused.stderr
    assert not (tmp_path / "was_run").exists()
    assert command(folder, "--trust", "--output", "x.csv").exit_code == 0
    assert (tmp_path / "was_run").exists()


def test_data_that_are_not_those_of_the_training_are_told_of(command: Callable, tmp_path: Path) -> None:
    run = record_network(tmp_path / "run", num_steps=1)
    summary = json.loads((run / "summary.json").read_text())
    for number, found, told in (
        (0, fingerprint(build_splits(bnlab.load(run).config)), ""),
        (1, "another", f"The data are not those that the run in {str(run)!r} was trained on.\n"),
    ):
        (run / "summary.json").write_text(json.dumps(summary | {"data_sha256": found}))
        done = command(run, "--output", f"{number}.csv")
        assert (done.exit_code, done.stderr) == (0, told)


def without_checkpoint(folder: Path) -> Path:
    return record(folder)


def with_other_data(folder: Path) -> Path:
    record_network(folder, num_steps=1)
    summary = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(summary.replace('"num_classes": 10', '"num_classes": 11'))
    return folder


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder, "is not the folder of a run with results"),
        (without_checkpoint, "it has no best.ckpt"),
        (with_other_data, "cannot be read: best.ckpt: its weights are not those"),
    ],
    ids=["no folder", "no checkpoint", "other data"],
)
def test_a_mistake_ends_in_one_line(command: Callable, make: Callable, told: str) -> None:
    done = command(make(Path("x")))
    assert done.exit_code == 2
    assert told in done.stderr
    assert (len(done.stderr.splitlines()), done.stdout) == (1, "")
    assert not Path("outputs").exists()
