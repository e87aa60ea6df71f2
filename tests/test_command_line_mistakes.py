"""What a new user types wrong: one line that names the way out, exit code 2, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

SINGLE = {
    # a setting without its group, or by another name
    "lr=0.1": "did you mean optimizer.lr=0.1?",
    "epochs=5": "did you mean trainer.max_epochs=5?",
    "max_epochs=5": "did you mean trainer.max_epochs=5?",
    "batch_size=32": "did you mean data.batch_size=32?",
    "hidden=[100,100]": "did you mean 'model.hidden=[100,100]'?",
    "layers=4": "did you mean model.num_layers=4 or model.hidden=4?",
    "activation=tanh": "did you mean model.activation=tanh?",
    "placement=after": "did you mean norm.placement=after?",
    "weight_decay=0.1": "did you mean optimizer.weight_decay=0.1?",
    "momentum=0.9": "norm.momentum=0.9 or optimizer=momentum optimizer.momentum=0.9?",
    "learning_rate=0.1": "did you mean optimizer.lr=0.1?",
    "wd=0.1": "did you mean optimizer.weight_decay=0.1?",
    "device=cuda": "did you mean trainer.accelerator=cuda?",
    "gpus=1": "did you mean trainer.devices=1?",
    "precision=16": "did you mean trainer.precision=16?",
    "seeds=5": "did you mean -m search.seeds=5?",
    "n_jobs=4": "did you mean -m hydra/launcher=joblib hydra.launcher.n_jobs=4?",
    "output=foo": "did you mean hydra.run.dir=foo",
    "optim=adam": "did you mean optimizer=adam?",
    "adam.lr=0.1": "did you mean optimizer.lr=0.1?",
    "train.epochs=3": "did you mean trainer.max_epochs=3?",
    "trainer.epochs=5": "did you mean trainer.max_epochs=5?",
    "trainer.epochs=": "did you mean trainer.max_epochs=VALUE?",
    "trainer.device=cuda": "did you mean trainer.accelerator=cuda?",
    "optimizer.learning_rate=0.1": "did you mean optimizer.lr=0.1?",
    "optimizer.betas=[0.9,0.99]": "did you mean optimizer.beta1=0.9 optimizer.beta2=0.99?",
    "use_bn=true": "norm=batch and norm=none turn batch norm on and off",
    "dropout=0.5": "python -m bnlab.train --help",
    "early_stopping=true": "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
    # spelling
    "optimizer.weigth_decay=0.1": "did you mean optimizer.weight_decay=0.1?",
    "optimzer.lr=0.1": "did you mean optimizer.lr=0.1?",
    "data.batch-size=32": "did you mean data.batch_size=32?",
    "Optimizer=adam": "did you mean optimizer=adam?",
    "model/activation=relu": "did you mean model.activation=relu?",
    # a setting that the choice does not have
    "norm=none norm.placement=after": "leave it out, or choose norm=batch, norm=ghost, norm=renorm or norm=torch",
    "optimizer=sgd optimizer.beta1=0.9": "choose optimizer=adam or optimizer=adamw",
    "data.root=there": "or choose data=cifar10",
    "scheduler.gamma=0.9": "choose scheduler=exponential or scheduler=step",
    "optimizer.nesterov=true": "choose optimizer=nesterov",
    "model.dropout=0.5": "model=mlp has num_layers, num_units, hidden, activation and bias",
    "trainer.limit_train_batches=0.5": "did you mean +trainer.limit_train_batches=0.5?",
    "optimizer.amsgrad=true": "did you mean +optimizer.amsgrad=true?",
    # choices
    "optimizer=Adam": "did you mean optimizer=adam?",
    "optimizer=adm": "did you mean optimizer=adam",
    "norm=bn": "did you mean norm=batch?",
    "norm=batchnorm": "did you mean norm=batch?",
    "norm=BatchNorm1d": "did you mean norm=batch?",
    "norm=off": "did you mean norm=none?",
    "norm=false": "did you mean norm=none?",
    "norm=layer": "choose one of them, such as norm=batch",
    "data=MNIST": "did you mean data=mnist?",
    "data=cifar": "did you mean data=cifar10?",
    "data=mine.csv": "did you mean data=csv data.path=mine.csv?",
    "data=imagenet": "not one of the choices cifar10",
    "scheduler=none": "did you mean scheduler=constant?",
    "scheduler=StepLR": "did you mean scheduler=step?",
    "logger=tensorbord": "did you mean logger=tensorboard?",
    "model=cnn": "the only choice is model=mlp",
    # what is added
    "+lr=0.1": "did you mean optimizer.lr=0.1?",
    "+optimizer=adam": "exists already: write optimizer=adam, without the +",
    "+trainer.epochs=5": "did you mean trainer.max_epochs=5?",
    "+optimizer.momentun=0.9": "did you mean optimizer=momentum optimizer.momentum=0.9?",
    "+model.dropout=0.5": "there are num_layers, num_units, hidden, activation, bias",
    "norm=none +norm.placement=after": "leave it out, or choose norm=batch",
    "+note=x": "leave it out, or keep it as a note, +notes.note=x.",
    "++mine.thing=null": "leave it out, or keep it as a note, +notes.mine.thing=null.",
    "+now=3": "leave it out, or keep it",  # a resolver's name is no setting's
    "+log=3": "leave it out, or keep it",
    "notes=x": "did you mean +notes=x?",
    "comment=x": "+notes.NAME=TEXT keeps a note on the run",
    "~norm": "or choose norm=none",
    # what is for a sweep
    "optimizer.lr=0.1,0.01": "add -m",
    "norm=batch,none": "add -m",
    "optimizer.lr=interval(1e-4,1)": "add -m search=random",
    "optimizer.lr=tag(log,interval(1e-4,1))": "add -m search=random",
    "search=random": "add -m",
    "search.num_trials=5": "add -m",
    "search.resume=outputs/x": "add -m",
    "search/space=learning_rate": "add -m",
    "hydra/launcher=stacked": "add -m",
    "hydra.launcher=stacked": "did you mean -m hydra/launcher=stacked?",
    "optimizer.lr=0,1": "did you mean optimizer.lr=0.1?",
    "model.hidden=100,100": "did you mean 'model.hidden=[100,100]'?",
    # values
    "seed=abc": "a whole number >= 0 and <= 4294967295, but got 'abc'",
    "optimizer.lr=1e-3x": "a finite number >= 0, but got '1e-3x'",
    "optimizer.lr=-1": "a finite number >= 0, but got -1",
    "model.hidden=[100x100]": "a list such as [100,100]",
    "model.hidden=100": "a list such as [100,100]",
    "objective=accuracy": "did you mean objective=val_accuracy?",
    "data.batch_size=ful": "did you mean data.batch_size=full?",
    "data.normalize=yes": "did you mean data.normalize=true?",
    "norm.placement=Before": "did you mean norm.placement=before?",
    "trainer.max_epochs=five": "a whole number >= 1 or -1 (no limit)",
    "model.activation=Relu": "did you mean model.activation=relu?",
    "model.activation=swish": "did you mean model.activation=silu?",
    "trainer.precision=fp16": "did you mean trainer.precision=16-mixed?",
    "optimizer.lr=[0.1,0.01]": "did you mean -m optimizer.lr=0.1,0.01?",
    "norm=[batch,none]": "did you mean -m norm=batch,none?",
    "hydra.run.dir=": ". is the current one",
    "data.batch_size=100000": "the 1077 samples of the training set",
    # the grammar
    "optimizer.lr": "write optimizer.lr=VALUE",
    "optimizer.lr = 0.1": "no spaces around its =: did you mean optimizer.lr=0.1?",
    "optimizer.lr 0.1": "joined by a =: did you mean optimizer.lr=0.1?",
    "lr 0.1": "joined by a =: did you mean optimizer.lr=0.1?",
    "optimizer": "write optimizer=adam",
    "adam": "did you mean optimizer=adam?",
    "help": "did you mean python -m bnlab.train --help?",
    "evalute": "did you mean python -m bnlab.evaluate?",
    "=5": "write it like optimizer.lr=0.01",
    "optimizer.lr==0.1": "did you mean optimizer.lr=0.1?",
    "optimizer=adam,": "did you mean optimizer=adam?",
    "a=b=c": """is quoted, such as "a='b=c'".""",
    'optimizer.lr="0.1': 'a " that nothing closes',
    "model.hidden=[100,100": "a [ that nothing closes",
    "model.hidden=(100,100)": "did you mean 'model.hidden=[100,100]'?",
    "лр=0.1": "has a 'л' before the =, and no setting has",
    "β=0.9": "did you mean optimizer.beta1=0.9?",
    "optimizer.β1=0.9": "did you mean optimizer.beta1=0.9?",
    "hydra.run.dir=café": """did you mean "hydra.run.dir='café'"?""",
    "hydra.run.dir='caf\udce9'": "a name in UTF-8, but got 'caf\\xe9': choose another",
    "model.hidden={100,100}": "square brackets and commas, did you mean 'model.hidden=[100,100]'?",
    "model.hidden=[100;100]": "square brackets and commas, did you mean 'model.hidden=[100,100]'?",
    "logger=null": "did you mean logger=csv?",
    "optimizer=null": "not one of the choices adam",
    "model.hidden=[100_100]": "did you mean 'model.hidden=[100,100]' or 'model.hidden=[100100]'?",
    "optimizer.lr=“0.1”": """did you mean 'optimizer.lr="0.1"'?""",
    # options
    "--lr 0.1": "without --: did you mean optimizer.lr=0.1?",
    "--epochs=5": "without --: did you mean trainer.max_epochs=5?",
    "--data mnist": "without --: did you mean data=mnist?",
    "--resume outputs/x": "did you mean -m search.resume=outputs/x?",
    "--foo": "python -m bnlab.train --help",
    "--multi-run": "did you mean --multirun or -m?",
    "-multirun": "did you mean --multirun or -m?",
    "–m": "did you mean -m?",
    "--config-name foo": "leave it out",
    "--config-dir nowhere": "a folder of configs",
    "--cfg": "one of job, hydra, all",
    "--cfg=jobb": "Did you mean --cfg job?",
}

SWEEPS = {
    "lr=0.1,0.2": "did you mean optimizer.lr=0.1,0.2?",
    "+lr=0.1,0.2": "did you mean optimizer.lr=0.1,0.2?",
    "seed=1,2 +note=x": "leave it out, or keep it as a note, +notes.note=x.",
    "seed=1,2 +lr=0.1": "did you mean optimizer.lr=0.1?",
    "seed=1,2 hydra.sweep.dir='caf\udce9'": "a name in UTF-8, but got 'caf\\xe9': choose another",
    "optimizer.lr=interval(0.1) search=random": "cannot be evaluated: missing a required argument: 'end'.",
    "model.hidden=[10_10],[10]": "did you mean 'model.hidden=[10,10],[10]'",
    "лр=0.1,0.2": "has a 'л' before the =",
    "search=random data.batch_size=int(interval(16,2000))": "1077 samples of the training set, but is searched",
    "optimizer=sgd,adm": "did you mean optimizer=adam",
    "optimizr=sgd,adam": "did you mean optimizer=sgd,adam?",
    "norm=none norm.placement=before,after": "leave it out, or choose norm=batch",
    "search=radom": "did you mean search=random?",
    "search=bayes": "did you mean search=tpe?",
    "search.num_trails=5": "did you mean search.num_trials=5?",
    "search.num_trials=0": "a whole number >= 1, or null",
    "search/space=lr": "did you mean search/space=learning_rate?",
    "hydra/launcher=stakced": "did you mean hydra/launcher=stacked?",
    "hydra.launcher.n_jobs=4": "choose hydra/launcher=joblib or hydra/launcher=stacked",
    "optimizer.lr=interval(1e-4,1": "a ( that nothing closes",
    "optimizer.lr=tag(log,interval(1e-4,1))": "take search=random",
    "optimizer.lr=tag(log,1e-4,1)": "did you mean 'optimizer.lr=tag(log,interval(1e-4,1))'?",
    "optimizer.lr=loguniform(1e-4,1)": "did you mean 'optimizer.lr=tag(log,interval(1e-4,1))'?",
    "optimizer.lr=uniform(0,1)": "did you mean 'optimizer.lr=interval(0,1)'?",
    "data.batch_size=randint(16,512)": "did you mean 'data.batch_size=int(interval(16,512))'?",
    "optimizer=sgd,momentum optimizer.beta1=0.9": "leave it out, or choose optimizer=adam or optimizer=adamw",
    "optimizer.lr=tag(lgo,interval(1e-4,1)) search=random": "a tag is log, one_minus_log, or a condition",
}


def check(outcome, said: str, folder: Path) -> None:
    assert outcome.exit_code == 2, outcome.stdout
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") <= 3
    assert outcome.stdout.count("\n") == outcome.stdout.count("Searching ") < 2
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("typed", SINGLE)
def test_a_mistake_names_the_way_out(typed: str, train: Callable, tmp_path: Path) -> None:
    check(train(*typed.split(" ")), SINGLE[typed], tmp_path)


@pytest.mark.parametrize("typed", SWEEPS)
def test_a_mistake_in_a_sweep_names_the_way_out(typed: str, train: Callable, tmp_path: Path) -> None:
    check(train("-m", *typed.split(" ")), SWEEPS[typed], tmp_path)


def test_options_and_overrides_come_in_any_order(train: Callable) -> None:
    first = train("-m", "--cfg", "job", "seed=3", "optimizer=sgd")
    last = train("seed=3", "-m", "optimizer=sgd", "--cfg", "job")
    assert first.exit_code == 0
    assert first == last


def test_a_mistake_tells_no_secret(train: Callable) -> None:
    for words in (["loger.api_key=geheim"], ["optimizer.password=[geheim"], ["--api_key=geheim"]):
        outcome = train(*words)
        assert outcome.exit_code == 2
        assert "geheim" not in outcome.stderr
