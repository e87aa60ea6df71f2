import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bnlab.data
from bnlab.data import Batches, EpochOrder, Normalization, Split, Splits, digits, from_torchvision
from bnlab.data.module import DataModule
from bnlab.data_sets import DATA_SETS, PUBLISHED
from bnlab.errors import UserError


def random_split(num_samples: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randn(num_samples, 3, generator=generator), torch.arange(num_samples) % 4)


def class_shares(split: Split) -> torch.Tensor:
    return torch.bincount(split.y, minlength=10) / len(split)


def test_digits_are_all_there_once_and_split_class_by_class() -> None:
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    splits = digits(val_fraction=0.2, test_fraction=0.2)
    parts = [splits.train, splits.val, splits.test]
    assert [len(part) for part in parts] == [1077, 360, 360]
    together = torch.cat([part.x.flatten(1) for part in parts]).mul(16).numpy()
    assert sorted(map(tuple, together)) == sorted(map(tuple, images))
    whole = class_shares(Split(torch.empty(1797, 1), torch.from_numpy(classes)))
    for part in parts:
        assert float((class_shares(part) - whole).abs().max()) < 1.5 / len(part)


def sizes_of(splits: Splits) -> tuple[int, int]:
    return sum(map(len, (splits.train, splits.val, splits.test))), splits.train.x[0].numel()


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_what_is_known_of_a_data_set_beforehand_is_so(name: str) -> None:
    known = DATA_SETS[name]
    assert (known.num_samples, known.num_features) == sizes_of(getattr(bnlab.data, name)())


def test_what_is_known_of_mnist_beforehand_is_so(mnist_root: Path) -> None:
    known = PUBLISHED["MNIST"]
    num_samples, num_features = sizes_of(from_torchvision("MNIST", root=str(mnist_root)))
    assert (known.num_samples, known.num_features) == (num_samples - 10_000, num_features)  # which are for the test


def test_split_seed_decides_the_split() -> None:
    same, again, other = digits(split_seed=3), digits(split_seed=3), digits(split_seed=4)
    assert torch.equal(same.test.x, again.test.x)
    assert torch.equal(same.train.y, again.train.y)
    assert not torch.equal(same.test.x, other.test.x)


def test_mnist_keeps_its_published_test_set_and_splits_validation_off_training(mnist_root: Path) -> None:
    splits = from_torchvision("MNIST", root=str(mnist_root), val_fraction=0.1)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [54_000, 6_000, 10_000]
    assert splits.sample_shape == (1, 28, 28)
    raw = np.fromfile(mnist_root / "MNIST/raw/t10k-images-idx3-ubyte", dtype=np.uint8)[16:].reshape(10_000, 1, 28, 28)
    assert torch.equal(splits.test.x, torch.from_numpy(raw).float() / 255)
    shares = class_shares(Split(torch.empty(60_000, 1), torch.cat([splits.train.y, splits.val.y])))
    assert float((class_shares(splits.val) - shares).abs().max()) < 1 / 6_000


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST"])
def test_data_sets_in_the_layout_of_mnist_are_read(name: str, mnist_root: Path, tmp_path: Path) -> None:
    shutil.copytree(mnist_root / "MNIST", tmp_path / name)
    assert from_torchvision(name, root=str(tmp_path)).sample_shape == (1, 28, 28)


def test_cifar10_becomes_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = {name: rng.integers(0, 256, (20, 3072), dtype=np.uint8) for name in names}
    for name, pixels in batches.items():
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(20)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)  # the published files' checksums
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    splits = from_torchvision("CIFAR10", root=str(tmp_path), val_fraction=0.2)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [80, 20, 20]
    assert torch.equal(splits.test.x, torch.from_numpy(batches["test_batch"]).reshape(20, 3, 32, 32).float() / 255)
    assert splits.num_classes == 10


def test_normalization_is_the_training_sets_closed_form() -> None:
    splits = digits()
    normalized = Normalization.of(splits.train).of_splits(splits)
    train = splits.train.x.double()
    mean, std = train.mean(0), train.std(0, unbiased=False)
    expected = (splits.test.x.double() - mean) / torch.where(std == 0, 1, std)
    torch.testing.assert_close(normalized.test.x.double(), expected, rtol=1e-5, atol=1e-5)
    varying = std > 0
    assert 0 < int((~varying).sum()) < 64  # digits has pixels that are always blank: the case is really tested
    torch.testing.assert_close(normalized.train.x.mean(0), torch.zeros(1, 8, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        normalized.train.x.std(0, unbiased=False)[varying], torch.ones(int(varying.sum())), rtol=1e-4, atol=0
    )


def test_constant_features_become_zero_whatever_their_value() -> None:
    train = Split(torch.tensor([[0.1, 1e6, 1.0], [0.1, 1e6, 3.0], [0.1, 1e6, 5.0]]), torch.zeros(3).long())
    normalization = Normalization.of(train)
    assert torch.equal(normalization(train.x)[:, :2], torch.zeros(3, 2))
    assert torch.isfinite(normalization(torch.tensor([[9.0, 9.0, 9.0]]))).all()


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochOrder(50, seed)
        sampler.set_epoch(epoch)
        return sampler.indices().tolist()

    first = order(0, 5)
    torch.manual_seed(123)
    torch.rand(7)
    np.random.default_rng(5).random(3)
    assert order(0, 5) == first
    assert sorted(first) == list(range(50))
    distinct = {tuple(order(seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(distinct) == 36  # (1, 2) and (2, 1) differ too


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),  # a last batch of one would have no variance
        (8, 4, [4, 4]),
        (5, 4, [5]),
        (3, 1, [1, 1, 1]),
        (7, None, [7]),
    ],
)
def test_batches_cover_every_sample_once(num_samples: int, batch_size: int | None, sizes: list[int]) -> None:
    split = random_split(num_samples)
    batches = Batches(split, batch_size, EpochOrder(num_samples, seed=0))
    served = list(batches)
    assert [len(y) for _, y in served] == sizes == batches.sizes
    assert len(batches) == len(sizes)
    assert sorted(map(tuple, torch.cat([x for x, _ in served]).tolist())) == sorted(map(tuple, split.x.tolist()))
    for x, y in served:
        rows = [int((split.x == sample).all(1).nonzero()) for sample in x]
        assert split.y[rows].tolist() == y.tolist()


def test_batches_follow_their_sampler() -> None:
    split = random_split(10)
    sampler = EpochOrder(10, seed=1)
    sampler.set_epoch(3)
    x = torch.cat([x for x, _ in Batches(split, 4, sampler)])
    assert torch.equal(x, split.x[sampler.indices()])


@pytest.mark.parametrize("batch_size", [0, 11])
def test_impossible_batch_sizes_are_refused(batch_size: int) -> None:
    with pytest.raises(UserError, match=f"between 1 and the 10 samples of the training set, but got {batch_size}"):
        Batches(random_split(10), batch_size)


def test_data_module_normalizes_only_when_asked() -> None:
    splits = digits()
    assert DataModule(splits, normalize=False).splits is splits
    assert DataModule(splits, normalize=False).state_dict() == {}
    normalized = DataModule(splits, normalize=True)
    assert torch.equal(normalized.state_dict()["mean"], Normalization.of(splits.train).mean)
    assert not torch.equal(normalized.splits.val.x, splits.val.x)


def test_a_missing_data_set_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"MNIST is not in `data.root`=.* and could not be downloaded there: set data.root"
    ):
        from_torchvision("MNIST", root=str(tmp_path))


def test_a_truncated_file_is_named_damaged(mnist_root: Path, tmp_path: Path) -> None:
    shutil.copytree(mnist_root / "MNIST", tmp_path / "MNIST")
    images = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    images.chmod(0o644)
    with images.open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(UserError, match=r"a file of it is damaged .* delete"):
        from_torchvision("MNIST", root=str(tmp_path))


def write_mnist(root: Path, **changes: np.ndarray) -> None:
    """A small data set in MNIST's files, with `changes` of their contents."""
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (100, 28, 28)),
        "train_labels": np.arange(100) % 10,
        "t10k_images": rng.integers(0, 256, (40, 28, 28)),
        "t10k_labels": np.arange(40) % 10,
    }
    (root / "MNIST/raw").mkdir(parents=True)
    for name, array in (arrays | changes).items():
        header = np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes()
        path = root / "MNIST/raw" / f"{name.replace('_', '-')}-idx{arrays[name].ndim}-ubyte"
        path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.arange(100) % 13}, r"`train\.y` .* in 0 \.\. 9, .* but has 12"),
        ({"t10k_labels": np.arange(40) % 11}, r"`test\.y` .* but has 10"),
        ({"t10k_images": np.zeros((40, 32, 32))}, r"`test\.x` .* \(1, 28, 28\), .* but got \(1, 32, 32\)"),
        ({"t10k_labels": np.arange(100) % 10}, "as many samples as labels, but got 40 and 100"),
        ({"t10k_images": np.zeros((0, 28, 28)), "t10k_labels": np.zeros(0)}, "damaged"),
        ({"train_images": np.arange(100)}, "3 dimension instead of 1"),
        ({"train_labels": np.zeros(100)}, "at least 2 classes, but all are of class 0"),
    ],
    ids=[
        "classes to 12",
        "a class of 10 to test",
        "larger images to test",
        "labels of another split",
        "nothing to test",
        "no images",
        "one class",
    ],
)
def test_files_of_another_data_set_are_refused_before_they_are_split(changes, message, tmp_path: Path) -> None:
    write_mnist(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as found:
        from_torchvision("MNIST", root=str(tmp_path))
    assert f"delete '{tmp_path}/MNIST' to have it downloaded again" in str(found.value)


def test_a_small_data_set_in_the_files_of_mnist_is_read(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    splits = from_torchvision("MNIST", root=str(tmp_path))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [90, 10, 40]


@pytest.mark.parametrize("name", ["Nonsense", "vision", "SVHN"])
def test_a_name_of_no_such_data_set_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"`data.name` must be a class of torchvision\.datasets .*, but got '{name}'"):
        from_torchvision(name, root=str(tmp_path))


@pytest.mark.parametrize("batch_size", [2.5, True, "half", "32", None])
def test_a_batch_size_that_is_no_number_is_refused(batch_size) -> None:
    with pytest.raises(UserError, match=r"`data\.batch_size` must be a whole number >= 1 or 'full'"):
        DataModule(digits(), batch_size=batch_size)


def test_splits_of_unequal_length_are_refused() -> None:
    with pytest.raises(UserError, match="as many samples as labels, but got 3 and 2"):
        Split(torch.zeros(3, 1), torch.zeros(2).long())
    assert Splits(*[random_split(4)] * 3, num_classes=4).sample_shape == (3,)
