"""Conditions that no trial can meet, and parameters that change nothing, are said before any job."""

import pytest
from test_search_space import space

from bnlab import UserError
from bnlab.search.spaces.conditions import drop_impossible

GROUPS = {"optimizer": ["adam", "sgd"]}


def possible(*texts, typed=True, **constants):
    searched = space(*texts, **constants)
    keys = [parameter.key for parameter in searched.parameters] if typed else []
    kept = drop_impossible(searched, keys, lambda key: GROUPS.get(key, []))
    return [parameter.key for parameter in kept.parameters]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["optimizer=adam,sgd", "a=tag('optimizer=adm', choice(1))"], "must be one of adam, sgd, not 'adm'"),
        (["optimizer=adam,sgd", "a=tag('optimizer=sgd|Adam', choice(1))"], "must be one of adam, sgd, not 'Adam'"),
        (["optimizer=adam,sgd", "a=tag('optimizer=', choice(1))"], "must be one of adam, sgd, not ''"),
        (["data.batch_size=8,16", "a=tag('data.batch_size=0', choice(1))"], "must be a whole number >= 1 or 'full'"),
        (["b=8,16", "a=tag('b=9', choice(1))"], "`b` is one of 8, 16: no trial would have it"),
        (["b='1',2", "a=tag('b=1', choice(1))"], "`b` is one of '1', 2"),
        (["b=int(interval(8, 16))", "a=tag('b=17', choice(1))"], "`b` is a whole number from 8 to 16"),
        (["b=int(interval(8, 16))", "a=tag('b=8.5|true', choice(1))"], "`b` is a whole number from 8 to 16"),
        (["b=interval(0, 1)", "a=tag('b=0.5', choice(1))"], "`b` is a random number from 0 to 1"),
        (["b=range(0, 9, 2)", "a=tag('b=3', choice(1))"], "`b` is one of 0, 2, 4"),
        (["optimizer=adam,sgd", "a=tag('optimizer.lr=1', choice(1))"], "depends on optimizer, which is searched"),
    ],
)
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "of a space"])
def test_a_condition_that_never_holds_says_why(texts, said, typed):
    constants = {"optimizer.lr": 1}
    if not typed and "no trial" not in said and "`b`" not in said:
        with pytest.raises(UserError, match="`a` is for"):
            possible(*texts, typed=False, **constants)
    elif not typed:
        assert "a" not in possible(*texts, typed=False, **constants)
    else:
        with pytest.raises(UserError) as caught:
            possible(*texts, **constants)
        assert said in str(caught.value)
        assert str(caught.value).startswith("`a` is for '")


def test_a_condition_on_what_is_fixed_otherwise_leaves_out_what_a_ready_made_space_has():
    texts = ["a=tag('optimizer=adam', choice(1, 2))", "b=tag('a=1', choice(1))", "c=tag('norm=null', choice(1))"]
    assert possible(*texts, optimizer="adam", norm=None) == ["a", "b", "c"]
    assert possible(*texts, optimizer="sgd", norm=None, typed=False) == ["c"]
    with pytest.raises(UserError, match="`optimizer` is sgd in every trial"):
        possible(*texts, optimizer="sgd", norm=None)


def test_of_a_chain_the_first_link_that_cannot_hold_is_named():
    texts = ["a=1,2", "b=tag('a=3', choice(1))", "c=tag('b=1', choice(1))"]
    with pytest.raises(UserError, match="`b` is for 'a=3'"):
        possible(*texts)
    assert possible(*texts, typed=False) == ["a"]
    with pytest.raises(UserError, match="`c` is for 'b=1', but no trial has `b` itself"):
        drop_impossible(space(*texts), ["c"], lambda key: [])


def test_whole_numbers_can_meet_a_condition():
    assert possible("b=tag(log, int(interval(8, 16)))", "a=tag('b=16.0|99', choice(1))") == ["b", "a"]


# From the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["model.num_units=16,32", "model.hidden=[10]"],
            "`model.num_units` has no effect on any trial, as model.hidden",
        ),
        (["model.num_units=16,32", "model.num_layers=0"], "`model.num_units` has no effect on any trial"),
        (["trainer.gradient_clip_algorithm=norm,value"], "as trainer.gradient_clip_val is null"),
        (
            ["optimizer=sgd", "search/space=all", "optimizer.beta1=tag('optimizer=adam',choice(0.8,0.9))"],
            "sgd in every trial",
        ),
        (
            ["optimizer=sgd", "optimizer.beta1=tag('optimizer=adam',choice(0.8,0.9))"],
            "optimizer` is sgd in every trial",
        ),
    ],
    ids=["widths", "no layers", "no clipping", "over a space", "fixed"],
)
def test_what_makes_no_difference_is_refused(arguments, said, train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnlab.train.task", lambda config: pytest.fail("a job ran"))
    outcome = train("-m", *arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*"))


def test_of_a_ready_made_space_what_makes_no_difference_is_left_out_and_said(sweep):
    outcome, left = sweep(
        *("search=random", "search/space=important", "search.num_trials=2", "model.hidden=[10,10]"),
        task=lambda config: 0.5,
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert "model.num_units" not in left.rows[0]
    assert "`model.num_units` is not searched: it has no effect" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_what_the_user_adds_and_nothing_reads_is_refused_but_for_notes_and_what_is_interpolated(sweep, tmp_path):
    folders = "hydra.sweep.subdir=${who}"
    added = ["+notes=1", "+width=8", "+who=me,you", "model.hidden=[${width}]", folders]
    outcome, left = sweep(*added, task=lambda config: 0.5)
    assert outcome.exit_code == 0, outcome.stderr
    assert "`who` has no effect: nothing reads it" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert sorted(row["folder"] for row in left.rows) == ["me", "you"]
    for line in ("+who=me", "+x=1,2"):
        outcome, left = sweep(line, "seed=1,2", folder="refused", task=lambda config: 0.5)
        assert outcome.exit_code == 2
        assert (
            f"{line} adds a setting that nothing reads: leave it out, or keep it as a note, +notes." in outcome.stderr
        )
        assert not (tmp_path / "refused").exists()


def test_what_has_an_effect_in_some_trials_is_searched(sweep):
    outcome, left = sweep(
        "+width=8,16",
        "model.num_units=2,4",
        "model.hidden=[${width}],'${repeat:${model.num_units},2}'",
        task=lambda config: sum(config.model.hidden),
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    assert {float(row["val_accuracy"]) for row in left.rows} == {8, 16, 4}
