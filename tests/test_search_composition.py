"""Configs made by copying and changing are those that Hydra composes, in every node; and they are made faster."""

import pickle
from itertools import count
from pathlib import Path

import pytest
from executed import counted
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from bnlab.config.folder import config_folder
from bnlab.hydra_plugins.register import register
from bnlab.internals.hydra_internals import initialized, register_resolver
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.study.address import anchored

JOBS = {
    "number": ["optimizer.lr=0.1"],
    "float": ["optimizer.lr=1.0000000000000002e-05"],
    "group": ["optimizer=momentum", "optimizer.momentum=0.95"],
    "group after value": ["optimizer.momentum=0.95", "optimizer=momentum"],
    "two groups": ["scheduler=step", "optimizer=sgd", "scheduler.gamma=0.3", "norm=none"],
    "list": ["model.hidden=[3,4,5]"],
    "null": ["norm.momentum=null", "trainer.gradient_clip_val=null"],
    "text": ["model.activation='a b=c, d'", "optimizer._target_=my.class"],
    "interpolation": ["optimizer.weight_decay=${optimizer.lr}", "optimizer.lr=3"],
    "dictionary": ["trainer={max_epochs: 7}"],
    "addition": ["+trainer.limit_train_batches=3", "++seed=4", "++new.key=1"],
    "deletion": ["~trainer.max_steps"],
    "deletion of a group": ["~logger"],
    "addition of a group": ["+search@elsewhere=random"],
    "package": ["search/space=important"],
    "same twice": ["seed=1", "seed=2"],
    "nothing": [],
    "subdirectory": ["optimizer.lr=0.1", "hydra.sweep.subdir=17"],
    "of Hydra": ["hydra.job.name=other", "optimizer.lr=0.1"],
    "names in the folder": ["hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=3", "optimizer.lr=0.1"],
}


@pytest.fixture(scope="module")
def loader():
    register()
    unique = count()
    register_resolver("unique", lambda: next(unique), use_cache=True, replace=True)
    with initialized(config_folder()):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(
    scope="module",
    params=[["hydra.mode=MULTIRUN"], ["hydra.mode=MULTIRUN", "hydra/launcher=joblib", "hydra.sweep.dir=a b"]],
    ids=["basic", "joblib"],
)
def master(request, loader):
    config = loader.load_configuration("train", [*request.param, "seed=1,2"], run_mode=RunMode.MULTIRUN)
    assert config.hydra.sweep.dir  # the time and the unique part are resolved once, for all jobs
    assert config.hydra.run.dir
    return config


def tree(node):
    """Every node: its type, its flags, its declared type, and its content, unresolved."""
    about = (
        type(node).__name__,
        dict(node._metadata.flags or {}),
        str(node._metadata.ref_type),
        node._metadata.optional,
    )
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        return about, {key: tree(node._get_node(key)) for key in node}
    if isinstance(node, ListConfig) and not node._is_none() and not node._is_missing():
        return about, [tree(node._get_node(index)) for index in range(len(node))]
    return about, node._value()


@pytest.fixture(scope="module")
def fast(loader, master):
    """One for all the jobs, so that each could find traces of the one before."""
    return SweepConfigLoader(loader)


@pytest.mark.parametrize("job", JOBS)
def test_a_changed_copy_is_what_hydra_composes(job, loader, master, fast):
    expected = loader.load_sweep_config(master, list(JOBS[job]))
    for again in range(2):
        got = fast.load_sweep_config(master, list(JOBS[job]))
        assert tree(got) == tree(expected), again
        assert list(got.keys()) == list(expected.keys())
        assert got.hydra.run.dir == expected.hydra.run.dir  # the cache of resolvers
        assert got.hydra.sweep.dir == expected.hydra.sweep.dir


def test_what_the_sweep_resolves_later_reaches_the_jobs(loader):
    master = loader.load_configuration("train", ["hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN)
    fast = SweepConfigLoader(loader)
    fast.load_sweep_config(master, ["seed=1"])
    resolved = master.hydra.run.dir
    assert fast.load_sweep_config(master, ["seed=2"]).hydra.run.dir == resolved


@pytest.mark.parametrize("wrong", ["optimizer.lrr=1", "optimizer=nothing", "optimizer.lr.x=1", "+optimizer.lr=2"])
def test_what_hydra_refuses_is_refused_with_the_same_words(wrong, loader, master):
    messages = []
    for way in (loader, SweepConfigLoader(loader)):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is, it is the same
            way.load_sweep_config(master, [wrong])
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_a_removed_current_folder_ends_no_sweep(tmp_path, monkeypatch, loader, master):
    """Hydra writes down where it is whenever it composes; a database with a full path needs no such place either."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert anchored("sqlite:////tmp/study.db", Path()) == "sqlite:////tmp/study.db"
    with pytest.raises(FileNotFoundError):
        anchored("sqlite:///study.db", Path())
    assert SweepConfigLoader(loader).load_sweep_config(master, ["seed=5"]).seed == 5


def test_it_reaches_another_process(loader, master):
    fast = SweepConfigLoader(loader)
    fast.load_sweep_config(master, ["seed=3"])
    again = pickle.loads(pickle.dumps(fast))
    assert tree(again.load_sweep_config(master, ["seed=4"])) == tree(loader.load_sweep_config(master, ["seed=4"]))


def test_composing_takes_a_third_of_the_work_that_hydra_puts_into_it(loader, master):
    """Counted, not timed; `python -m bnlab.bench search` gives the milliseconds."""
    fast = SweepConfigLoader(loader)

    def lines(way, jobs):
        with counted() as counter:
            for job in jobs:
                way.load_sweep_config(master, ["optimizer=momentum", f"optimizer.lr={job / 7}", f"seed={job}"])
        return counter.lines / len(jobs)

    fast.load_sweep_config(master, ["optimizer=momentum", "optimizer.lr=0", "seed=0"])
    ours, hydras = lines(fast, range(1, 4)), lines(loader, range(1, 3))
    print(f"{ours:.0f} lines of Python per job, Hydra's own way {hydras:.0f}")
    assert ours < hydras / 3
