"""What can be searched, what cannot, and that a wrong space ends in one line before any job."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from bnlab import UserError
from bnlab.search import RandomSampler
from bnlab.search.spaces.distributions import distribution_of
from bnlab.search.spaces.from_override import parameter_of
from bnlab.search.spaces.parameter import Choice, Condition, Parameter
from bnlab.search.spaces.scales import Integers, Log, LogIntegers, OneMinusLog, Uniform
from bnlab.search.spaces.space import Space


def parse(text, seed=0):
    return parameter_of(OverridesParser.create().parse_override(text), seed)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=interval(1, 4)", Uniform(1, 4)),
        ("a=int(interval(1, 4))", Integers(1, 4)),
        ("a=tag(log, interval(1e-4, 1))", Log(1e-4, 1)),
        ("a=tag(log, int(interval(16, 512)))", LogIntegers(16, 512)),
        ("a=int(tag(log, interval(16, 512)))", LogIntegers(16, 512)),
        ("a=tag(one_minus_log, interval(0.9, 0.999))", OneMinusLog(0.9, 0.999)),
        ("a=choice(relu, tanh)", Choice(("relu", "tanh"), ("relu", "tanh"))),
        ("a=1,2.5,true", Choice((1, 2.5, True), ("1", "2.5", "True"))),
        ("a=[1,2],[3]", Choice(([1, 2], [3]), ("[1,2]", "[3]"))),
        ("a={b:1},{}", Choice(({"b": 1}, {}), ("{b:1}", "{}"))),
        ("a=null,0.1", Choice((None, 0.1), ("null", "0.1"))),
        ("a='1',1,1.0,true,'true'", Choice(("1", 1, 1.0, True, "true"), ("'1'", "1", "1.0", "True", "'true'"))),
        ("a=str(1, 2)", Choice(("1", "2"), ("'1'", "'2'"))),
        ("a=b c,''", Choice(("b c", ""), ("b c", "''"))),
        (r"a=b\,c,d", Choice(("b,c", "d"), (r"b\,c", "d"))),
        (r"a=b\=c,d", Choice(("b=c", "d"), (r"b\=c", "d"))),
        ("a=${b},0", Choice(("${b}", 0), ("${b}", "0"))),
        ("a=range(1, 10, 3)", Choice((1, 4, 7), ("1", "4", "7"), step=3)),
        ("a=range(0, 1, 0.25)", Choice((0.0, 0.25, 0.5, 0.75), ("0.0", "0.25", "0.5", "0.75"))),
    ],
)
def test_every_form_is_read(text, values):
    parameter = parse(text)
    assert parameter.values == values
    assert parameter.key == "a"
    assert parameter.condition is None


def test_a_condition_is_a_tag():
    parameter = parse("optimizer.beta1=tag(one_minus_log, 'optimizer=adam|adamw', interval(0.9, 0.999))")
    assert parameter.condition == Condition("optimizer", ("adam", "adamw"))
    assert parse("a=tag('b=true', choice(1, 2))").condition.holds(True)


def test_a_shuffled_list_has_the_same_order_each_time_it_is_read():
    orders = [parse("a=shuffle(range(0, 20))").values.values for _ in range(3)]
    assert len(set(orders)) == 1
    assert sorted(orders[0]) == list(range(20)) != list(orders[0])
    assert parse("a=shuffle(range(0, 20))", seed=1).values.values != orders[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=tag(log, interval(0, 1))", "`a`: A log scale must have both ends > 0, but got 0 to 1."),
        ("a=tag(one_minus_log, interval(0.9, 1))", "both ends in [0, 1)"),
        ("a=tag(one_minus_log, int(interval(1, 9)))", "not for integers"),
        ("a=interval(5, 1)", "lower to its higher end, but got 5 to 1"),
        ("a=tag(logarithmic, interval(1, 5))", "a tag is log, one_minus_log, or a condition"),
        ("a=tag(log, one_minus_log, interval(0.1, 0.5))", "a tag is log, one_minus_log, or a condition"),
        ("a=tag(log, choice(1, 2))", "its values are listed"),
        ("a=tag('b=1', 'c=2', choice(1, 2))", "at most one condition, but got 2"),
        ("a=1,2,1", "lists a value twice"),
        ("a='b',b", "lists a value twice"),
        ("a=range(5, 1)", "no values"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(text, said):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def space(*texts, **constants):
    return Space(tuple(parse(text) for text in texts), constants)


def test_a_float_is_written_at_full_precision():
    for value in (0.1 + 0.2, 1e-5 / 3, 123456.789):
        text = parse("a=interval(0, 1e9)").override(value)
        assert OverridesParser.create().parse_override(text).value() == value


def test_a_parameter_exists_where_its_condition_holds():
    adam_or_sgd = space("beta1=tag('optimizer=adam', interval(0.5, 0.9))", "optimizer=adam,sgd")
    for name, keys in (("adam", {"optimizer", "beta1"}), ("sgd", {"optimizer"})):
        point = adam_or_sgd.draw(lambda parameter, name=name: name if parameter.key == "optimizer" else 0.7)
        assert set(point) == keys
    assert adam_or_sgd.overrides({"beta1": 0.7, "optimizer": "adam"}) == ["beta1=0.7", "optimizer=adam"]


@pytest.mark.parametrize(
    ("choices", "condition", "where"),
    [
        ("1,true,'1',1.5", "1", ["1"]),
        ("1,true,'1',1.5", "true|'1'", ["True", "'1'"]),
        ("'before','after'", "before", ["'before'"]),
        ("0.1,null", "null", ["null"]),
        ("0.1,null", "1e-1", ["0.1"]),
        ("[1,2],[3]", "[1, 2]", ["[1,2]"]),
        ("range(1, 9, 2)", "3|4", [3]),
    ],
)
def test_a_condition_compares_values_and_not_how_they_are_written(choices, condition, where):
    conditional = space(f"a={choices}", f'b=tag("a={condition}", choice(0))')
    assert [point["a"] for point in conditional.grid() if "b" in point] == where


@pytest.mark.parametrize("text", ["a='1',1,true,1.0", "a=[1],[1,1],{b:1}", "a=nan,inf,null", "a='$x$','[b]','é\n'"])
def test_a_choice_goes_through_optuna_and_an_override_unchanged(text):
    parameter = parse(text)
    study = optuna.create_study(sampler=RandomSampler(0))
    drawn = {study.ask({"a": distribution_of(parameter)}).params["a"] for _ in range(40)}
    assert drawn == set(parameter.values.texts)
    for element in drawn:
        again = OverridesParser.create().parse_override(parameter.override(element)).value()
        assert repr(again) == repr(parameter.value(element))


def test_a_condition_on_what_is_not_active_does_not_hold():
    chain = space("a=1,2", "b=tag('a=1', choice(3, 4))", "c=tag('b=3', choice(5, 6))")
    assert chain.grid() == [
        {"a": "1", "b": "3", "c": "5"},
        {"a": "1", "b": "3", "c": "6"},
        {"a": "1", "b": "4"},
        {"a": "2"},
    ]


def test_a_grid_has_every_combination_once_in_order():
    assert space("a=1,2", "b=x,y").grid() == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]
    assert Space(()).grid() == [{}]


def test_conditions_that_form_a_cycle_are_refused():
    with pytest.raises(UserError, match="form a cycle"):
        space("a=tag('b=1', choice(1, 2))", "b=tag('a=1', choice(1, 2))")
    with pytest.raises(UserError, match="neither a setting nor searched"):
        space("a=tag('nowhere=1', choice(1, 2))")


def test_both_ends_are_held_against_the_rule_of_the_setting():
    Parameter("optimizer.momentum", Uniform(0, 0.9)).check_rule()
    with pytest.raises(UserError, match=r"`optimizer.momentum` must be .* but got 1.5"):
        Parameter("optimizer.momentum", Uniform(0, 1.5)).check_rule()


# From the command line: one line, exit code 2, and no job

WRONG = {
    "log end": (["search=random", "optimizer.lr=tag(log,interval(0,1))"], "`optimizer.lr`: A log scale must have"),
    "one_minus_log end": (
        ["search=random", "optimizer.beta1=tag(one_minus_log,interval(0.9,1))"],
        "both ends in [0, 1), but got 0.9 to 1",
    ),
    "ends swapped": (["search=tpe", "optimizer.lr=interval(1,0.1)"], "from its lower to its higher end"),
    "interval in a grid": (["optimizer.lr=interval(0.1,1)"], "search=grid needs single values, but `optimizer.lr`"),
    "no space": (["search=random"], "search=random has no space"),
    "rule": (["search=random", "optimizer.beta1=interval(0.5,1.5)"], "`optimizer.beta1` must be"),
    "rule of a choice": (["data.batch_size=16,0"], "`data.batch_size` must be"),
    "rule in the middle of a list": (["data.batch_size=16,0,32"], "`data.batch_size` must be"),
    "float for an integer": (["search=random", "data.batch_size=interval(16,64)"], "must be a whole number"),
    "rule of an item": (["model.hidden=[10],[0]"], "`model.hidden` must be a list"),
    "rule of another setting": (["optimizer.lr=0.1,${optimizer._target_},0.2"], "`optimizer.lr` must be"),
    "unknown setting": (["search=random", "optimizer.larning_rate=interval(0,1)"], "optimizer.larning_rate"),
    "unknown choice": (["optimizer=adam,momentu"], "optimizer=momentu is not one of the choices adam, "),
    "no such setting there": (
        ["search=random", "optimizer=adam,sgd", "optimizer.beta1=tag('scheduler=cosine',interval(0,0.9))"],
        "`optimizer.beta1` does not exist with optimizer=sgd: say where it does",
    ),
    "unknown kind": (["search=rnadom", "search/space=learning_rate"], "did you mean search=random?"),
    "unknown space": (["search=random", "search/space=lr"], "did you mean search/space=learning_rate?"),
    "num_trials": (["search=random", "search/space=important", "search.num_trials=0"], "`search.num_trials` must be"),
    "num_trials null": (["search=tpe", "search/space=important", "search.num_trials=null"], "must be a number"),
    "shrink": (["search=coarse_to_fine", "search/space=important", "search.shrink=1"], "`search.shrink` must be"),
    "pruner": (["search=random", "search/space=important", "search.pruner=best"], "did you mean search/pruner=best?"),
    "seeds and seed": (["seed=1,2", "search.seeds=2"], "search one of the two"),
    "objective": (["objective=val_loss,val_accuracy"], "cannot be searched itself"),
    "twice": (["optimizer.lr=1,2", "++optimizer.lr=3,4"], "`optimizer.lr` is searched twice"),
    "kind": (["search=random,tpe"], "`search` says how to search and has one value, but got 'search=random,tpe'"),
    "seed": (["search.seed=0,1", "seed=1,2"], "`search.seed` says how to search"),
    "number": (["search=random", "optimizer.lr=interval(0,1)", "search.num_trials=interval(1,5)"], "has one value"),
    "spaces": (["search=random", "search/space=learning_rate,all"], "`search/space` says how to search"),
    "folder": (["search.resume=a,b"], "or quote a value that has a comma in it"),
    "nested": (
        ["search=random", "search.num_trials=2", "optimizer=adam", "+search.space={optimizer:{beta1:0.9}}"],
        "`search.space` names each setting in full, but has a mapping for `optimizer`: write `optimizer.beta1: 0.9`",
    ),
    "secret": (
        ["optimizer.lr=0.1,0.2", "+service.api_key=first-key,second-key"],
        "`service.api_key` is named like a secret",
    ),
    "entry": (["+search.space.seed=1,2"], "'+search.space.seed=1,2' is searched if it is given by itself: seed=1,2"),
    "entry of the search": (["+search.space={objective: val_loss}"], "`objective` is what trials are compared by"),
    "entry of Hydra": (["+search.space={hydra.sweep.dir: x}"], "`hydra.sweep.dir` says how to search"),
    "launcher": (["hydra/launcher=basic,joblib"], "hydra/launcher=basic,joblib': run one sweep for each value"),
    "folders": (["hydra.sweep.dir=a,b"], "or quote a value that has a comma in it"),
    "resume nothing": (["search.resume=nowhere"], "is not the folder of a sweep"),
    "no search": (["seed=1,2", "~search"], "must not be removed, because every sweep needs it"),
    "no target": (["search=random", "seed=1,2", "~search._target_"], "`search._target_` must not be removed"),
    "unknown setting of the search": (["seed=1,2", "+search.trials=3"], "`search.trials` is not a setting of a search"),
    "unknown setting of a sampler": (
        ["search=coarse_to_fine", "seed=1,2", "+search.width=3"],
        "`search.width` is not a setting of bnlab.search.coarse_to_fine: there are keep, rounds, shrink, num_trials,",
    ),
    "setting of another kind": (["search=tpe", "seed=1,2", "search.rounds=3"], "`search.rounds` does not exist with"),
    "setting of a pruner": (
        ["search/pruner=median", "seed=1,2", "+search.pruner.warmup=3"],
        "`search.pruner.warmup` is not a setting of optuna.pruners.MedianPruner: there are interval_steps, ",
    ),
    "setting of no pruner": (["seed=1,2", "+search.pruner.x=3"], "search/pruner=none has none"),
    "unknown pruner": (["seed=1,2", "search/pruner=medain"], "did you mean search/pruner=median?"),
    "impossible pruner": (["search/pruner=median", "seed=1,2", "search.pruner.n_warmup_steps=-1"], "`search.pruner`: "),
    "no such sampler": (
        ["seed=1,2", "search._target_=optuna.samplers.TPESampel", "search.num_trials=3"],
        "`search._target_` is 'optuna.samplers.TPESampel', but optuna.samplers has no 'TPESampel': did you mean",
    ),
    "no sampler": (
        ["seed=1,2", "search._target_=collections.Counter", "search.num_trials=3"],
        "`search._target_` must make a sampler of Optuna's, but collections.Counter makes a Counter",
    ),
    "no pruner": (
        ["seed=1,2", "search.pruner._target_=optuna.samplers.RandomSampler"],
        "`search.pruner._target_` must make a pruner of Optuna's, but optuna.samplers.RandomSampler makes a",
    ),
    "space by name": (["seed=1,2", "search.space=all"], "choose one by search/space=learning_rate"),
    "first seed": (["norm.eps=1,2", "search.seeds=2", "seed=1.5"], "`seed` must be a whole number"),
    "no seed": (["norm.eps=1,2", "seed=null"], "`seed` must be a whole number"),
    "driver": (["seed=1,2", "search.storage=mysql+nodriver://host/x"], "`search.storage`: mysql+nodriver://host/x"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_search_ends_in_one_line_before_any_job(case, train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnlab.train.task", lambda config: pytest.fail("a job ran"))
    arguments, said = WRONG[case]
    outcome = train("-m", *arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("study.journal"))


def test_a_password_is_not_shown(train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    outcome = train("-m", "seed=1,2", "search.storage=mysql+nodriver://me:secret@host/x")
    assert "me:***@host" in outcome.stderr
    assert "secret" not in outcome.stderr


@pytest.mark.parametrize(
    ("name", "optimizer", "keys"),
    [
        ("learning_rate", "adam", ["optimizer.lr"]),
        ("important", "adam", ["optimizer.lr", "optimizer.beta1", "data.batch_size", "model.num_units"]),
        ("important", "momentum", ["optimizer.lr", "optimizer.momentum", "data.batch_size", "model.num_units"]),
        (
            "all",
            "adam",
            [
                "optimizer.lr",
                "optimizer.beta1",
                "data.batch_size",
                "model.num_units",
                "model.num_layers",
                "scheduler",
                "scheduler.gamma",
                "scheduler.decay_rate",
                "optimizer.weight_decay",
                "optimizer.beta2",
                "optimizer.eps",
            ],
        ),
    ],
)
def test_ready_made_spaces_hold_what_matters_in_order(name, optimizer, keys, train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("bnlab.train.task", lambda config: seen.append(config) or 0.5)
    outcome = train("-m", "search=random", f"search/space={name}", f"optimizer={optimizer}", "search.num_trials=24")
    assert outcome.exit_code == 0, outcome.stderr
    header = next(tmp_path.rglob("trials.csv")).read_text().splitlines()[0].split(",")
    assert header[3:-4] == keys
    assert len(seen) == 24
    assert all(1e-4 <= config.optimizer.lr <= 1 for config in seen)
    if name != "learning_rate":
        assert {len(config.model.hidden) for config in seen} == ({1, 2, 3, 4, 5} if name == "all" else {3})
        assert len({config.model.hidden[0] for config in seen}) > 12


def test_the_command_line_takes_precedence_over_a_space(train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("bnlab.train.task", lambda config: seen.append(config) or 0.5)
    arguments = [
        "search=random",
        "search/space=important",
        "optimizer.lr=0.25",
        "data.batch_size=7,8",
        "search.num_trials=12",
    ]
    assert train("-m", *arguments).exit_code == 0
    assert {config.optimizer.lr for config in seen} == {0.25}
    assert {config.data.batch_size for config in seen} == {7, 8}
    assert len({config.model.num_units for config in seen}) > 8


def test_a_ready_made_space_has_no_batch_that_is_larger_than_the_training_set(sweep, tmp_path):
    (tmp_path / "mine.csv").write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(100)))
    data = ("data=csv", "data.path=mine.csv", "data.target=y")
    outcome, left = sweep(
        *("search=quasi_random", "search/space=important", "search.num_trials=16", *data), task=lambda config: 0.5
    )
    assert outcome.exit_code == 0, outcome.stderr
    sizes = [int(row["data.batch_size"]) for row in left.rows]
    assert 16 <= min(sizes) < 24 < 48 < max(sizes) <= 60
    assert "`data.batch_size` is searched up to the 60 samples of the training set, instead of 512." in outcome.stdout
    few = ("data.val_fraction=0.45", "data.test_fraction=0.45")
    outcome, left = sweep(
        *("search=random", "search/space=important", "search.num_trials=2", *data, *few, "data.batch_size=8"),
        task=lambda config: 0.5,
        folder="few",
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert "data.batch_size" not in left.rows[0]
