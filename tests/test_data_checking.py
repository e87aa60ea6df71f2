"""Data of a user's own: what is converted, and what is refused in one line, the same for every way of training."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch.utils.data import TensorDataset

import bnlab
from bnlab.config.build import build_splits
from bnlab.data import DataModule, Normalization, Split, Splits
from bnlab.data.splits import stratified_split
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.stacked import train as train_stacked

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
NAN, INF = math.nan, math.inf


def splits_of(x=X, y=Y, num_classes=3, **parts) -> Splits:
    whole = Split(x, y)
    return Splits(*[parts.get(name, whole) for name in ("train", "val", "test")], num_classes)


def changed(sample: int, value: float, x=X) -> torch.Tensor:
    x = x.clone()
    x[sample, 1] = value
    return x


def made_in_inference_mode(values: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return values * 1


REFUSED = {
    "classes from 1": (lambda: splits_of(y=Y + 1), r"`train\.y` .* in 0 \.\. 2, .* but has 3: classes count from 0"),
    "too many classes": (lambda: splits_of(y=Y * 2), r"in 0 \.\. 2, .* but has 4: num_classes=5 would count them"),
    "-100": (lambda: splits_of(test=Split(X, Y.where(Y > 0, -100))), r"`test\.y` .* but has -100: no class is ignored"),
    "a class above uint8": (lambda: splits_of(y=(Y + 254).to(torch.uint8), num_classes=255), r"0 \.\. 254, .* has 255"),
    "floats as classes": (lambda: splits_of(y=Y.float()), r"`train\.y` .* integers, but got real numbers: y\.long\(\)"),
    "one-hot classes": (lambda: splits_of(y=F.one_hot(Y)), r"shape \(N,\), .* got \(60, 3\): y\.argmax\(1\)"),
    "one-hot floats": (lambda: splits_of(y=F.one_hot(Y).double()), r"y\.argmax\(1\)"),
    "classes in a column": (lambda: splits_of(y=Y[:, None]), r"got \(60, 1\): y\.flatten\(\)"),
    "names as classes": (lambda: splits_of(y=np.array(["a", "b", "c"] * 20)), r"numbers, but got an array of <U1"),
    "one class": (
        lambda: splits_of(train=Split(X, Y * 0)),
        r"`train\.y` .* at least 2 classes, but all are of class 0",
    ),
    "num_classes of one": (lambda: splits_of(y=Y * 0, num_classes=1), r"whole number >= 2, but got 1\."),
    "num_classes a float": (lambda: splits_of(num_classes=3.0), r"whole number >= 2, but got 3\.0"),
    "num_classes a boolean": (lambda: splits_of(y=Y % 2, num_classes=True), r"whole number >= 2, but got True"),
    "NaN and infinity": (
        lambda: splits_of(val=Split(changed(7, INF, changed(5, NAN)), Y)),
        r"`val\.x` .* of its 240 values 1 are NaN and 1 infinite, the first in sample 5",
    ),
    "NaN in float64": (lambda: splits_of(x=changed(59, NAN, X.double())), r"1 are NaN and 0 infinite, .* sample 59"),
    "NaN in float16": (lambda: splits_of(x=changed(0, NAN, X.half())), r"1 are NaN and 0 infinite, .* sample 0"),
    "infinities that cancel": (lambda: splits_of(x=changed(1, INF, changed(2, -INF))), r"0 are NaN and 2 infinite"),
    "beyond float32": (lambda: splits_of(x=X.double() * 1e60), r"largest number is 3\.4e\+38, but has a value of magn"),
    "complex samples": (lambda: splits_of(x=torch.complex(X, X)), r"real, but got complex64"),
    "no features": (lambda: splits_of(x=X[:, :0]), r"at least one feature, but got the shape \(60, 0\)"),
    "samples of no shape": (lambda: splits_of(x=X[:, 0]), r"\(N, features, \.\.\.\), but got \(60,\)"),
    "sparse samples": (lambda: splits_of(x=X.to_sparse()), r"dense tensor, but got a tensor of layout sparse_coo"),
    "samples without values": (lambda: splits_of(x=X.to("meta")), r"device meta, which holds no values"),
    "masked samples": (lambda: splits_of(x=np.ma.masked_array(X.numpy(), X.numpy() > 0)), r"a masked one: fill"),
    "lists": (lambda: splits_of(X.tolist(), Y.tolist()), r"tensor or an array, but got an object of type list"),
    "objects": (lambda: splits_of(x=X.numpy().astype(object)), r"numbers, but got an array of object"),
    "samples without classes": (lambda: splits_of(y=Y[:-1]), r"as many samples as labels, but got 60 and 59"),
    "an empty split": (
        lambda: splits_of(val=Split(X[:0], Y[:0])),
        r"`val` of the data must have samples, but is empty",
    ),
    "other samples to test": (
        lambda: splits_of(test=Split(X[:, :3], Y)),
        r"`test\.x` .* shape \(4,\), as `train\.x` has, but got \(3,\)",
    ),
    "a split that is a pair": (lambda: splits_of(val=(X, Y)), r"`val` .* bnlab\.data\.Split, but .* type tuple"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused_with_the_rule_the_value_and_the_way_out(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y.int()),
        (X, Y.to(torch.uint8)),
        (X, Y.numpy().astype(np.int16)),
        (X.double(), Y),
        (X.numpy(), Y.numpy()),
        (X.numpy().astype(">f8"), Y.numpy().astype(">i4")),
        (np.ascontiguousarray(X.numpy()[::-1])[::-1], np.ascontiguousarray(Y.numpy()[::-1])[::-1]),
        (np.broadcast_to(X.numpy(), (60, 4)), Y),  # cannot be written to, of which torch warns
        (X.numpy().astype(np.longdouble), Y),
        (torch.nn.Parameter(X), Y),
        (X.clone().requires_grad_() * 1, Y),
        (made_in_inference_mode(X), made_in_inference_mode(Y)),
        (torch.complex(X, -X).conj().imag, Y),  # a view that is negated when it is read
        (X.T.contiguous().T, Y.repeat_interleave(2)[::2]),
    ],
    ids=[
        "int32 classes",
        "uint8 classes",
        "int16 array of classes",
        "float64",
        "arrays",
        "foreign byte order",
        "negative strides",
        "read-only array",
        "long doubles",
        "a parameter",
        "part of a graph",
        "made in inference mode",
        "negated view",
        "other strides",
    ],
)
def test_numbers_of_other_kinds_are_the_same_data(x, y) -> None:
    splits = splits_of(x, y)
    for split in (splits.train, splits.val, splits.test):
        for values, expected in ((split.x, X), (split.y, Y)):
            assert torch.equal(values.to(expected.dtype), expected)
            assert type(values) is torch.Tensor
            assert values.is_contiguous()
            assert not any((values.requires_grad, values.is_inference(), values.is_neg()))
        assert split.y.dtype == torch.int64
    rest, cut = stratified_split(Split(x, y), 0.5, 0)
    assert torch.equal(torch.cat([rest.x, cut.x]).float().sort(0).values, X.sort(0).values)


def test_integers_are_exact_and_all_splits_have_one_type() -> None:
    large = torch.tensor([[2**24 + 1], [0]])
    splits = Splits(Split(large, Y[:2]), Split(torch.rand(2, 1).half(), Y[:2]), Split(large > 0, Y[:2]), np.int64(2))
    assert splits.train.x.tolist() == [[2**24 + 1], [0]]
    assert {split.x.dtype for split in (splits.train, splits.val, splits.test)} == {torch.float64}
    assert type(splits.num_classes) is int
    assert splits_of(torch.arange(240, dtype=torch.uint8).reshape(60, 4)).train.x.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_large_and_small_values_are_normalized_like_others(scale: float) -> None:
    """Their squares are infinite, or 0, in float32."""
    x = X * scale
    expected = (x.double() - x.double().mean(0)) / x.double().std(0, unbiased=False)
    normalized = Normalization.of(Split(x, Y))(x)
    torch.testing.assert_close(normalized.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_feature_in_float64_is_constant() -> None:
    """Three times 0.1 is more than 0.3: a mean by summing is not the value, and dividing by what is left is noise."""
    x = torch.full((3, 1), 0.1, dtype=torch.float64)
    normalization = Normalization.of(Split(x, Y[:3]))
    assert normalization(x).tolist() == [[0.0]] * 3
    assert normalization(x + 1).tolist() == [[1.0]] * 3


def test_normalizing_that_overflows_is_not_silent() -> None:
    val = Split(X * 1e37, Y)
    with pytest.raises(UserError, match=r"a feature that hardly varies there overflows; .* data.normalize=false"):
        DataModule(splits_of(X * 1e-3, val=val), batch_size=20)
    assert DataModule(splits_of(X * 1e-3, val=val), batch_size=20, normalize=False).splits.val.x.isfinite().all()


def test_tensors_that_need_no_conversion_are_not_copied() -> None:
    splits = splits_of()
    assert splits.train.x.data_ptr() == splits.test.x.data_ptr() == X.data_ptr()
    assert splits.train.y.data_ptr() == Y.data_ptr()


WAYS = {name: make for name, (make, _) in REFUSED.items()} | {
    "fine": splits_of,
    "float64": lambda: splits_of(X.double().numpy(), Y.int()),
    "a tuple": lambda: (X, Y),
    "a data set of torch": lambda: TensorDataset(X, Y),
    "nothing": lambda: None,
}


def load(case: str) -> Splits:
    return WAYS[case]()


def config_of(case: str, *overrides: str):
    config = bnlab.compose(["trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[6]", *overrides])
    config.data = {"_target_": f"{__name__}.load", "case": case, "batch_size": 20, "normalize": True}
    return config


@pytest.mark.parametrize("value", ["a tuple", "a data set of torch", "nothing"])
def test_a_function_that_returns_something_else_is_told_what_to_return(value: str) -> None:
    for make in (lambda: build_splits(config_of(value)), lambda: DataModule(load(value))):
        with pytest.raises(
            UserError, match=r"must be bnlab\.data\.Splits, but got an object of type .*: Splits\(Split\("
        ):
            make()


def test_every_way_of_training_takes_and_refuses_the_same_data(tmp_path: Path) -> None:
    cases = ["fine", "float64", "classes from 1", "one-hot classes", "NaN and infinity", "a tuple"]
    configs = [config_of(case) for case in cases]
    stacked = train_stacked(configs, tmp_path / "stack", num_workers=1)
    for number, (case, config) in enumerate(zip(cases, configs, strict=True)):
        folder = tmp_path / "alone" / str(number)
        if number < 2:
            alone = fit(config, folder, console=Console(quiet=True))
            assert stacked[number]["status"] == alone["status"] == "completed"
            assert stacked[number]["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
            continue
        with pytest.raises(UserError, match=REFUSED[case][1] if case in REFUSED else "Splits") as found:
            fit(config, folder, console=Console(quiet=True))
        assert stacked[number]["status"] == "failed"
        assert (
            stacked[number]["error"] == str(found.value) == json.loads((folder / "summary.json").read_text())["error"]
        )
    assert stacked[1]["train_loss"] == pytest.approx(stacked[0]["train_loss"], rel=1e-6)
    for number in (0, 1):
        run = bnlab.load(tmp_path / "alone" / str(number), trust=True)
        logits = run.network(run.normalization(load(cases[number]).test.x))
        assert (logits.argmax(1) == Y).float().mean() == pytest.approx(run.summary["test_accuracy"])
        assert evaluate(run.folder.path, trust=True)["test_accuracy"] == run.summary["test_accuracy"]


def test_other_data_than_a_run_was_trained_on_do_not_evaluate_it(tmp_path: Path, monkeypatch) -> None:
    fit(config_of("fine"), tmp_path, console=Console(quiet=True))
    monkeypatch.setitem(WAYS, "fine", lambda: splits_of(X[:, :3]))
    with pytest.raises(UserError, match=r"shape \(4,\) and 3 classes, but now have \(3,\) and 3"):
        evaluate(tmp_path, trust=True)


def test_the_command_ends_in_one_line_and_a_sweep_in_a_row_for_each(train, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/mine.yaml").write_text(f"_target_: {__name__}.load\ncase: null\nsplit_seed: 0\n")
    monkeypatch.setitem(globals(), "load", lambda case, split_seed: WAYS[case]())
    monkeypatch.chdir(tmp_path)
    own = ["--config-dir", "conf", "data=mine", "trainer.max_epochs=1", "model.hidden=[6]", "data.batch_size=20"]
    outcome = train(*own, "data.case=NaN and infinity", "hydra.run.dir=run")
    assert outcome.exit_code == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert "1 are NaN and 1 infinite" in outcome.stderr
    assert not Path("run").exists()
    outcome = train("-m", *own, "data.case=fine,one-hot classes", "hydra.sweep.dir=sweep")
    assert outcome.exit_code == 1
    assert "trial 1 failed: `y` of a split" in outcome.stdout
    assert "Traceback" not in outcome.stdout + outcome.stderr
