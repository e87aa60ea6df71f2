"""Going on with a sweep that somebody else made runs none of their code and reads nothing of this machine."""

import pytest
from omegaconf import OmegaConf
from simulated_sweep import LR, smooth

from bnlab.process.signals import UserInterrupt
from bnlab.search.study.folder import SweepFolder
from bnlab.search.sweeps.trust import reasons_of_definition

MARK = "import pathlib\ndef mark(*arguments, **named):\n    pathlib.Path(__file__).with_name('ran').touch()\n"
CODE = "strangers_code.mark"


@pytest.fixture
def strangers(sweep, train, tmp_path, monkeypatch):
    """Go on with a sweep whose sweep.yaml was changed; what it said, and whether the code it names has run."""
    (tmp_path / "strangers_code.py").write_text(MARK)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "theirs.yaml").write_text(f"_target_: {CODE}\n")
    monkeypatch.syspath_prepend(tmp_path)
    sweep("search=random", "search.num_trials=1", LR, task=smooth)
    monkeypatch.setenv("BNLAB_TEST_SECRET", "hunter2")

    path = SweepFolder(tmp_path / "sweep").definition
    before = path.read_text()

    def resume(*arguments, overrides=(), of_hydra=(), **changed):
        stored = OmegaConf.create(before)
        stored.overrides = [*stored.overrides, *overrides]
        stored.origin.overrides = [*stored.origin.overrides, *of_hydra]
        for key, value in changed.items():
            OmegaConf.update(stored, key.replace("__", "."), value)
        OmegaConf.save(stored, path)
        outcome = train("-m", "search.resume=sweep", "search.num_trials=2", *arguments)
        return outcome, (tmp_path / "ran").exists()

    return resume


ATTACKS = [
    ({"overrides": [f"model._target_={CODE}"]}, "asks for 'strangers_code.mark' in `model._target_`"),
    ({"overrides": ["model._target_=bnlab.MLP,os.system"]}, "asks for 'os.system'"),
    ({"overrides": [f"+callbacks.x._target_={CODE}"]}, "asks for 'strangers_code.mark'"),
    ({"overrides": [f"+callbacks.x={{_target_:{CODE}}}"]}, "asks for 'strangers_code.mark' in `callbacks.x`"),
    ({"overrides": [f"+model.a=[{{b:{{'_target_':'{CODE}'}}}}],[]"]}, "has the override"),
    ({"overrides": [f"search._target_={CODE}"]}, "asks for 'strangers_code.mark' in `search._target_`"),
    ({"overrides": [f"search.pruner._target_={CODE}"]}, "asks for 'strangers_code.mark' in `search.pruner._target_`"),
    ({"overrides": [f"search.pruner={{_target_:{CODE}}}"]}, "asks for 'strangers_code.mark' in `search.pruner`"),
    ({"pruner": {"_target_": CODE}}, "asks for 'strangers_code.mark' in `search.pruner`"),
    ({"overrides": ["model._target_=${seed}"]}, "asks for '${seed}'"),
    (
        {"overrides": ["data._target_=bnlab.batch_norm.back_ends.kernel.load"]},
        "asks for 'bnlab.batch_norm.back_ends.kernel.load'",
    ),
    ({"overrides": ["logger=mlflow"]}, "asks for 'lightning.pytorch.loggers.MLFlowLogger'"),
    ({"overrides": ["data=mnist", "data.name=SVHN"]}, "asks for torchvision's data set 'SVHN'"),
    ({"overrides": ["data.name=MNIST,SVHN", "data=mnist"]}, "asks for torchvision's data set 'SVHN'"),
    ({"overrides": ["data=mnist", "data.root='${oc.env:BNLAB_TEST_SECRET}'"]}, "has the interpolation"),
    ({"of_hydra": ["hydra.sweep.subdir=${oc.env:BNLAB_TEST_SECRET}"]}, "has the interpolation"),
    ({"of_hydra": [f"+hydra.callbacks.x._target_={CODE}"]}, "of Hydra"),
    ({"of_hydra": [f"hydra.launcher._target_={CODE}"]}, "of Hydra"),
    ({"of_hydra": [f"+hydra.job_logging.filters.x.()={CODE}"]}, "of Hydra"),
    ({"of_hydra": ["hydra.searchpath=[conf]"], "overrides": ["data=theirs"]}, "takes configs from a folder of its"),
    ({"of_hydra": ["hydra.searchpath=[pkg://strangers_code]"]}, "takes configs from a folder of its own"),
    ({"origin__config_dir": "conf", "overrides": ["data=theirs"]}, "takes configs from a folder of its own"),
    ({"storage": "postgresql://${oc.env:BNLAB_TEST_SECRET}@localhost:1/x"}, "keeps its study elsewhere"),
    ({"storage": "postgresql://me@localhost:1/x"}, "keeps its study elsewhere"),
    ({"storage": "sqlite:////etc/x.db"}, "keeps its study elsewhere"),
    ({"storage": "sqlite:///../x.db"}, "keeps its study elsewhere"),
]


def test_what_only_its_maker_can_answer_for_is_refused_before_anything_is_done(strangers) -> None:
    for changed, told in ATTACKS:
        outcome, ran = strangers(**changed)
        assert outcome.exit_code == 2, changed
        assert told in outcome.stderr, changed
        assert "search.trust=true" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
        assert "hunter2" not in outcome.stdout + outcome.stderr
        assert not ran


def test_a_folder_cannot_trust_itself(strangers) -> None:
    outcome, ran = strangers(overrides=["search.trust=true", f"model._target_={CODE}"])
    assert outcome.exit_code == 2
    assert "asks for 'strangers_code.mark'" in outcome.stderr
    assert not ran


def test_a_sweep_of_known_parts_goes_on_without_a_word(strangers, tmp_path) -> None:
    outcome, _ = strangers(overrides=[], of_hydra=["hydra/launcher=basic"], storage=None)
    assert outcome.exit_code == 0, outcome.stderr
    assert list(reasons_of_definition(SweepFolder(tmp_path / "sweep").read_definition())) == []


def test_a_trusted_sweep_goes_on_with_code_of_its_own_and_the_printed_command_says_so(sweep, train, tmp_path) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text("_target_: tiny.data\n")

    def interrupted(config):
        raise UserInterrupt

    own = f"hydra.searchpath=[{tmp_path}/conf]"
    outcome, _ = sweep(own, "data=mine", "search=random", "search.num_trials=1", LR, task=interrupted)
    assert outcome.exit_code == 130
    command = outcome.stdout.rpartition("Continue with:\n")[2].split()
    assert command[-2:] == ["search.resume=sweep", "search.trust=true"]
    assert train(*command[3:-1]).exit_code == 2
    assert train(*command[3:]).exit_code == 130  # interrupted once more: it has gone on
