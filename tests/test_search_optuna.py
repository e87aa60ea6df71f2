"""Optuna's own suites, for our samplers in a study of any kind, and for the storages that a sweep opens."""

import shutil

import optuna
import pytest

from bnlab.search import CoarseToFineSampler, QuasiRandomSampler, RandomSampler
from bnlab.search.study.storage import close, open_storage

of_samplers = pytest.importorskip("optuna.testing.pytest_samplers", reason="this Optuna comes without its suites")
of_storages = pytest.importorskip("optuna.testing.pytest_storages", reason="this Optuna comes without its suites")


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestRandomSampler(of_samplers.BasicSamplerTestCase, of_samplers.MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: RandomSampler(0)


class TestQuasiRandomSampler(of_samplers.BasicSamplerTestCase, of_samplers.MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: QuasiRandomSampler(0, ["y"])


class TestCoarseToFineSampler(of_samplers.BasicSamplerTestCase, of_samplers.SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: CoarseToFineSampler(0, trials_per_round=2)


class TestJournal(of_storages.StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path):
        storage = open_storage(None, tmp_path / "study.journal")
        yield storage
        close(storage)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database with its tables, which take longer to make than all the rest."""
    file = tmp_path_factory.mktemp("database") / "empty.db"
    close(open_storage(f"sqlite:///{file}", file))
    return file


@pytest.mark.slow
class TestSqlite(of_storages.StorageTestCase):
    @pytest.fixture
    def storage(self, empty, tmp_path):
        file = shutil.copy(empty, tmp_path / "study.db")
        storage = open_storage(f"sqlite:///{file}", file)
        yield storage
        close(storage)
