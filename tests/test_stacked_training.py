"""Each network of a stack has the learning curve that it has alone."""

import ctypes
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from stacked_oracle import alone, configs_of, stacked

from bnlab.batch_norm import use_kernel
from bnlab.batch_norm.back_ends import kernel
from bnlab.batch_norm.back_ends.kernel_check import BACKWARD, Problem
from bnlab.config.build import build_network
from bnlab.network import MLP
from bnlab.stacked.data import load_data
from bnlab.stacked.formulas import layers
from bnlab.stacked.formulas.loss import cross_entropy_and_gradient
from bnlab.stacked.job import Job
from bnlab.stacked.networks.compiled_step import CompiledStep
from bnlab.stacked.networks.mlp import StackedMLP
from bnlab.stacked.networks.optimizers import StackedOptimizer
from bnlab.stacked.networks.same_bits import same_loss, same_products
from bnlab.stacked.processes.worker import train_chunk
from bnlab.stacked.training import Interrupted

EACH = {
    "sgd": [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.02, "optimizer.weight_decay": 0.01}],
    "momentum": [{"optimizer.lr": 0.02, "optimizer.momentum": 0.9}, {"optimizer.lr": 0.1, "optimizer.momentum": 0.5}],
    "nesterov": [{"optimizer.lr": 0.02, "optimizer.momentum": 0.9}, {"optimizer.lr": 0.1, "optimizer.momentum": 0.5}],
    "rmsprop": [{"optimizer.lr": 1e-3, "optimizer.alpha": 0.9}, {"optimizer.lr": 1e-4, "optimizer.alpha": 0.99}],
    "adam": [{"optimizer.lr": 2e-3, "optimizer.beta1": 0.8}, {"optimizer.lr": 1e-3, "optimizer.beta2": 0.99}],
    "adamw": [{"optimizer.lr": 2e-3, "optimizer.weight_decay": 0.1}, {"optimizer.lr": 1e-3, "optimizer.beta1": 0.5}],
}
NORMS = [("none", "before"), ("batch", "before"), ("batch", "after"), ("torch", "before"), ("torch", "after")]
TOLERANCES = {"32-true": 1e-5, "64-true": 1e-10}


def check(configs, trials, tolerance: float) -> None:
    for config, trial in zip(configs, trials, strict=True):
        expected = alone(config)
        columns = trial.history.columns()
        for name, values in expected.items():
            assert columns[name] == pytest.approx(values, rel=tolerance, abs=1e-12), name
        val = expected["val_accuracy"]
        assert trial.history.best["epoch"] == val.index(max(val)) + 1


@pytest.mark.parametrize("bias", ["auto", True, False])
@pytest.mark.parametrize(("norm", "placement"), NORMS)
@pytest.mark.parametrize("optimizer", EACH)
@pytest.mark.parametrize("precision", TOLERANCES)
def test_stacked_trial_equals_single_run(precision, optimizer, norm, placement, bias) -> None:
    """50 steps with different learning rates, betas, seeds and batch norm momenta in one stack."""
    common = [f"optimizer={optimizer}", f"norm={norm}", "data.batch_size=64", "trainer.max_epochs=3"]
    common += [f"trainer.precision={precision}", f"model.bias={bias}", "trainer.max_steps=50"]
    if norm != "none":
        common.append(f"norm.placement={placement}")
    each = [{"seed": 3, **EACH[optimizer][0]}, {"seed": 4, **EACH[optimizer][1]}]
    if norm != "none":
        each[1] |= {"norm.momentum": 0.3, "norm.eps": 1e-3}
    configs = configs_of(common, each)
    check(configs, stacked(configs), TOLERANCES[precision])


@pytest.mark.parametrize(
    "common",
    [
        ["data.batch_size=full"],
        ["data.batch_size=269"],  # 1 sample of 1077 is left over
        ["norm.momentum=null"],
        ["+norm.affine=false"],
        ["+norm.track_running_stats=false"],
        ["trainer.gradient_clip_val=0.1"],
        ["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"],
        ["model.hidden=[]"],
        ["data.normalize=false"],
        ["scheduler=constant"],
        ["scheduler=step", "scheduler.step_size=1"],
        ["scheduler=exponential"],
        ["scheduler=inverse_time"],
        ["trainer.max_epochs=-1", "trainer.max_steps=20", "scheduler=constant"],
        *(
            [f"model.activation={name}"]
            for name in ("leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity")
        ),
        ["model.activation=gelu", "norm.placement=after"],
    ],
    ids=" ".join,
)
def test_every_setting_of_a_single_run_means_the_same_in_a_stack(common) -> None:
    configs = configs_of(
        ["trainer.precision=64-true", "trainer.max_epochs=3", *common], [{"seed": 1}, {"seed": 2, "optimizer.lr": 0.01}]
    )
    check(configs, stacked(configs), 1e-9)


def test_networks_of_one_seed_share_their_batches_and_have_their_own_curves() -> None:
    configs = configs_of(["trainer.max_epochs=2"], [{"optimizer.lr": lr} for lr in (1e-3, 3e-3, 1e-2)])
    check(configs, stacked(configs), 1e-5)


def test_without_the_kernel_the_formulas_in_torch_give_the_same() -> None:
    configs = configs_of(["trainer.max_epochs=2", "trainer.precision=64-true"], [{"seed": 1}, {"seed": 2}])
    with use_kernel(False):
        trials = stacked(configs)
    check(configs, trials, 1e-9)


def threefold(run):
    """The kernel with all gradients of its backward tripled, as a C function of its own."""
    true_run = ctypes.cast(run, ctypes.CFUNCTYPE(None, ctypes.c_void_p))

    def tripled(address):
        problem = Problem.from_address(address)
        true_run(address)
        if problem.direction == BACKWARD:
            sizes = {"out": problem.N * problem.C, "grad_weight": problem.C, "grad_bias": problem.C}
            for name, number in sizes.items():
                values = (ctypes.c_float * number).from_address(getattr(problem, name))
                values[:] = [3 * value for value in values]

    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(tripled)


@pytest.mark.parametrize("mode", ["step in C", "layer by layer", "without the kernel"])
def test_the_backward_written_by_hand_is_the_one_that_runs(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong one, curves differ."""
    if mode != "without the kernel" and not kernel.is_available():
        pytest.skip("no C compiler for the kernel")
    (config,) = configs_of(["trainer.max_epochs=1", "optimizer=sgd"], [{}])
    if mode == "layer by layer":
        monkeypatch.setattr(CompiledStep, "takes", lambda layers: False)
    with use_kernel(mode != "without the kernel"):
        (right,) = stacked([config])
        with monkeypatch.context() as wrongly:
            if mode == "step in C":
                wrongly.setitem(kernel.run_of, torch.float32, threefold(kernel.run_of[torch.float32]))
            else:
                module = layers.kernel_by_pointers if mode == "layer by layer" else layers.in_place
                true_backward = module.backward
                wrongly.setattr(module, "backward", lambda *a: [g if g is None else 3 * g for g in true_backward(*a)])
            (wrong,) = stacked([config])
    difference = wrong.last.network()["1.weight"] - right.last.network()["1.weight"]
    assert difference.abs().max() > 1e-3


needs_compiler = pytest.mark.skipif(not kernel.is_available(), reason="no C compiler for the step")


@needs_compiler
@pytest.mark.parametrize(
    ("overrides", "in_c"),
    [
        ([], True),
        (["norm=none", "trainer.precision=64-true"], True),
        (["norm.placement=after", "model.bias=true", "data.batch_size=269"], True),
        (["+norm.affine=false"], True),
        (["model.activation=tanh"], False),
        (["norm.momentum=null"], False),
        (["norm=torch"], False),
    ],
)
def test_the_step_in_c_leaves_what_its_operations_one_by_one_leave_bit_for_bit(overrides, in_c, monkeypatch) -> None:
    torch.manual_seed(0)
    configs = configs_of(overrides, [{"seed": 1}, {"seed": 2}])
    data = load_data(configs[0])
    networks = [build_network(config, data.splits.sample_shape, data.splits.num_classes) for config in configs]
    dtype = torch.float64 if configs[0].trainer.precision == "64-true" else torch.float32
    compiled = StackedMLP(networks, dtype)
    assert (compiled._compiled is not None) == in_c
    monkeypatch.setattr(CompiledStep, "takes", lambda layers: False)
    one_by_one = StackedMLP(networks, dtype)
    for sizes in ((2, 64), (2, 64), (70,)):
        if in_c and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
            assert compiled._compiled.step(sizes[-1])
        x = torch.randn(*sizes, 64, dtype=dtype)
        y = torch.randint(10, sizes)
        (losses, hits), (expected_losses, expected_hits) = compiled.step(x, y), one_by_one.step(x, y)
        assert torch.equal(compiled.stack.gradients, one_by_one.stack.gradients)
        torch.testing.assert_close(losses, expected_losses, rtol=3e-7, atol=0)
        assert torch.equal(hits, expected_hits)
        compiled.sync()
        one_by_one.sync()
        for name, buffer in compiled.stack.buffers.items():
            assert torch.equal(buffer, one_by_one.stack.buffers[name]), name
    x, y = torch.randn(100, 64, dtype=dtype), torch.randint(10, (100,))
    (losses, hits), (expected_losses, expected_hits) = compiled.evaluate(x, y), one_by_one.evaluate(x, y)
    torch.testing.assert_close(losses, expected_losses, rtol=3e-7, atol=0)
    assert torch.equal(hits, expected_hits)


@pytest.mark.parametrize("num_classes", [2, 10, 16, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_the_loss_is_autograds_bit_for_bit(dtype: torch.dtype, num_classes: int) -> None:
    """Where the classes fill a vector of the processor, sums are added up in another order."""
    torch.manual_seed(0)
    logits, y = 5 * torch.randn(2, 37, num_classes, dtype=dtype), torch.randint(num_classes, (2, 37))
    losses, gradients = cross_entropy_and_gradient(logits, y)
    for z, classes, loss, gradient in zip(logits.requires_grad_(), y, losses, gradients, strict=True):
        alone = F.cross_entropy(z, classes)
        assert torch.equal(gradient, torch.autograd.grad(alone, z)[0])
        torch.testing.assert_close(loss, alone)
    if kernel.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert same_loss(dtype, 37, num_classes)


@needs_compiler
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_update_within_the_step_is_the_one_after_it_bit_for_bit(dtype: torch.dtype, nesterov: bool) -> None:
    settings = [{"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.01}]
    settings += [] if nesterov else [{}, {"weight_decay": 0.1}, {"momentum": 0.9, "dampening": 0.1}]
    torch.manual_seed(0)
    networks = [MLP(12, 3, hidden=[23, 9]).to(dtype) for _ in settings]
    within, after = (StackedMLP(networks, dtype) for _ in range(2))
    optimizers = [
        StackedOptimizer(
            [
                torch.optim.SGD(network.parameters(), lr=0.1 * (index + 1), nesterov=nesterov, **of_network)
                for index, (network, of_network) in enumerate(zip(networks, settings, strict=True))
            ],
            stack.stack.rows,
            stack.stack.gradients,
        )
        for stack in (within, after)
    ]
    for _ in range(5):
        x, y = torch.randn(len(settings), 17, 12, dtype=dtype), torch.randint(3, (len(settings), 17))
        within.step(x, y, optimizers[0])
        after.step(x, y)
        optimizers[1].step()
        assert torch.equal(within.stack.rows, after.stack.rows)
    assert optimizers[0].num_steps == 5
    for name, state in optimizers[0].states.items():
        assert torch.equal(state, optimizers[1].states[name])
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert optimizers[0].begin_step() is not None


@needs_compiler
@pytest.mark.parametrize("updates_within", [False, True])
@pytest.mark.parametrize("hidden", [[23, 9], [101, 33], [7]])
def test_the_place_in_a_stack_changes_no_bit(hidden: list[int], updates_within: bool) -> None:
    torch.manual_seed(0)
    network = MLP(37, 3, hidden=hidden)
    stack = StackedMLP([network] * 5)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9) for _ in range(5)]
    optimizer = StackedOptimizer(optimizers, stack.stack.rows, stack.stack.gradients)
    for _ in range(10):
        x, y = torch.randn(61, 37), torch.randint(3, (61,))
        if updates_within:
            stack.step(x, y, optimizer)
        else:
            stack.step(x, y)
            optimizer.step()
    for row in stack.stack.rows[1:]:
        assert torch.equal(row, stack.stack.rows[0])


@needs_compiler
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_product_of_other_bits_than_the_layers_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true_bits, true_method = same_products.__wrapped__(torch.float32, 9, 5, 7, True, 1), getattr(layers.Linear, name)

    def off_by_a_bit(layer, *args):
        result = true_method(layer, *args)
        result[0, -1, -1] = torch.nextafter(result[0, -1, -1], torch.tensor(math.inf))
        return result

    monkeypatch.setattr(layers.Linear, name, off_by_a_bit)
    bits = same_products.__wrapped__(torch.float32, 9, 5, 7, True, 1)
    wrong = 0 if name == "forward" else 2
    assert bits == [same and index != wrong for index, same in enumerate(true_bits)]


@needs_compiler
def test_in_a_step_in_c_a_nan_is_the_largest_logit_and_a_class_out_of_bounds_an_error() -> None:
    network = MLP(4, 3, hidden=[])
    stack = StackedMLP([network])
    assert stack._compiled is not None
    x = torch.zeros(2, 4)
    _, hits = stack.step(x, torch.tensor([0, 1]))
    assert hits.tolist() == [int((network(x).argmax(1) == torch.tensor([0, 1])).sum())]
    stack.stack.rows.fill_(math.nan)
    losses, hits = stack.step(x, torch.tensor([0, 1]))
    assert hits.tolist() == [1]
    assert losses.isnan().all()
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=rf"in 0 \.\. 2, but got {wrong}"):
            stack.step(x, torch.tensor([0, wrong]))


@needs_compiler
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(2, 4), torch.tensor([0, 1], dtype=torch.int32)),
        (torch.zeros(2, 4), torch.tensor([0.0, 1.0])),
        (torch.zeros(2, 4), torch.tensor([[1, 0, 0], [0, 1, 0]])),
        (torch.zeros(2, 4), torch.tensor([0])),
        (torch.zeros(2, 3), torch.tensor([0, 1])),
        (torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 1])),
        (torch.zeros(2, 2, 4), torch.tensor([[0, 1], [0, 1]])),
        (torch.zeros(1, 2, 4), torch.tensor([0, 1])),
    ],
    ids=[
        "int32 classes",
        "floats as classes",
        "one-hot classes",
        "too few classes",
        "too few features",
        "float64 samples",
        "too many networks",
        "one class list for stacked samples",
    ],
)
def test_a_step_in_c_does_not_read_past_tensors_of_other_shapes_or_types(x, y) -> None:
    stack = StackedMLP([MLP(4, 3, hidden=[])])
    for call in (stack.step, stack.evaluate):
        with pytest.raises(ValueError, match=r"x and y must have the shapes .*, and the types"):
            call(x, y)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_network_that_diverges_leaves_its_neighbours_as_they_were_bit_for_bit(norm: str) -> None:
    common = ["trainer.max_epochs=4", "optimizer=momentum", f"norm={norm}", "optimizer.momentum=0.9"]
    calm = [{"seed": 1, "optimizer.lr": 0.01}, {"seed": 2, "optimizer.lr": 0.02}]
    wild = {"seed": 3, "optimizer.lr": 1e6, "optimizer.weight_decay": 1.0}
    neighbours = stacked(configs_of(common, calm))
    first, diverged, last = stacked(configs_of(common, [calm[0], wild, calm[1]]))
    assert diverged.status == "diverged"
    assert diverged.best is None
    assert not math.isfinite(diverged.history.rows[-1]["train_loss"])
    for trial, neighbour in zip((first, last), neighbours, strict=True):
        assert trial.status == "completed"
        for row, expected in zip(trial.history.rows, neighbour.history.rows, strict=True):
            assert {**row, "seconds": 0} == {**expected, "seconds": 0}
        for name, tensor in trial.last.network().items():
            assert torch.equal(tensor, neighbour.last.network()[name])
        assert trial.test_metrics == neighbour.test_metrics


def test_a_network_that_ended_before_the_stack_is_interrupted_has_its_test_metrics(tmp_path: Path) -> None:
    """A resumed sweep takes it for done: nobody would test it later."""
    each = [{"optimizer.lr": lr} for lr in (0.01, 32.768)]  # the second diverges in its second epoch
    settings = ["trainer.max_epochs=9", "trainer.accelerator=cpu", "model.hidden=[40,40]", "norm=ghost"]
    configs = configs_of([*settings, "optimizer=nesterov"], each)

    def summaries(folder: Path, last_epoch: int) -> list[dict]:
        def look(epoch: int, num_trials: int) -> None:
            if epoch > last_epoch:
                raise Interrupted

        jobs = [Job(number, config, folder / str(number)) for number, config in enumerate(configs)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("bnlab.stacked.training.LOOK_EVERY_S", 0.0)
            ended = dict(train_chunk(jobs, look, lambda curves: [b""] * len(curves)))
        return [ended[number] for number in range(len(jobs))]

    whole, interrupted = summaries(tmp_path / "whole", 9), summaries(tmp_path / "interrupted", 3)
    assert [summary["status"] for summary in whole] == ["completed", "diverged"]
    assert [summary["status"] for summary in interrupted] == ["interrupted", "diverged"]
    assert whole[1]["test_accuracy"] is not None
    measured = {"seconds", "samples_per_second"}
    assert {key: value for key, value in interrupted[1].items() if key not in measured} == {
        key: value for key, value in whole[1].items() if key not in measured
    }
