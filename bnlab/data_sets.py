"""The table of bnlab's data sets: what is known about them before torch is imported or a file is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DATA_SETS", "PUBLISHED", "DataSet", "Published", "data_set_of", "num_features"]


@dataclass(frozen=True)
class DataSet:
    """A function of `bnlab.data` that a config can name as its target.

    Attributes:
        home: the module of `bnlab.data` that defines it; its name differs, as a module hides a function of its name.
        num_samples: the number of samples for training, validation and test; None if its settings decide.
        num_features: the number of features per sample; None likewise.
    """

    home: str
    num_samples: int | None = None
    num_features: int | None = None


@dataclass(frozen=True)
class Published:
    """A data set of torchvision whose files are checked against a published checksum before they are read.

    Attributes:
        num_samples: the number of samples for training and validation.
        num_features: the number of features per sample.
        hosts: the servers from which torchvision downloads it.
    """

    num_samples: int
    num_features: int
    hosts: tuple[str, ...]


DATA_SETS = {
    "diabetes": DataSet("diabetes_table", 442, 10),
    "digits": DataSet("datasets", 1797, 64),
    "from_csv": DataSet("csv_table"),
    "from_npz": DataSet("npz_archive"),
    "from_torchvision": DataSet("datasets"),
}
PUBLISHED = {
    "MNIST": Published(60_000, 784, ("ossci-datasets.s3.amazonaws.com", "storage.googleapis.com", "yann.lecun.com")),
    "FashionMNIST": Published(60_000, 784, ("fashion-mnist.s3-website.eu-central-1.amazonaws.com",)),
    "KMNIST": Published(60_000, 784, ("codh.rois.ac.jp",)),
    "CIFAR10": Published(50_000, 3072, ("www.cs.toronto.edu",)),
}


def data_set_of(settings: Mapping[str, Any]) -> DataSet | Published | None:
    """Return the data set that the settings of `data` name; None if it is not one of bnlab's."""
    package, _, name = str(settings.get("_target_")).rpartition(".")
    if package != "bnlab.data":
        return None
    return PUBLISHED.get(str(settings.get("name"))) if name == "from_torchvision" else DATA_SETS.get(name)


def num_features(settings: Mapping[str, Any]) -> int:
    """Return the number of features per sample or, if it is unknown, that of the largest published data set."""
    found = data_set_of(settings)
    known = None if found is None else found.num_features
    return known or max(published.num_features for published in PUBLISHED.values())
