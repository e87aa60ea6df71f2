"""What differs between runs, means over seeds, and intervals, against hand-worked numbers and closed forms."""

import csv
import functools
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from recorded import record

from bnlab.comparison.arms import Arm, Result
from bnlab.comparison.choices import choice_of
from bnlab.comparison.comparison import compare
from bnlab.comparison.formats import to_csv, to_latex, to_markdown
from bnlab.comparison.grouping import arms_of
from bnlab.comparison.settings import Settings, differing, read_settings
from bnlab.comparison.statistics import difference, estimate
from bnlab.comparison.table import baselines, make_table
from bnlab.composing import compose
from bnlab.config.folder import config_folder
from bnlab.errors import UserError
from bnlab.io.yaml_text import read_yaml
from bnlab.status import Status

GROUPS = ("data", "model", "norm", "optimizer", "scheduler")


@functools.cache
def settings(*overrides: str) -> Settings:
    return read_settings(OmegaConf.to_container(compose(overrides), resolve=True))


# Statistics


def test_a_mean_and_its_deviation_are_those_of_the_textbook() -> None:
    found = estimate([0.9, 0.92, 0.97])
    assert found is not None
    assert found.mean == pytest.approx(0.93, rel=1e-14)
    assert found.deviation == pytest.approx(0.03605551275463989, rel=1e-12)  # sqrt((.03^2 + .01^2 + .04^2) / 2)
    assert estimate([0.9]).deviation is None
    assert estimate([]) is None


def test_a_paired_interval_is_the_one_worked_out_by_hand() -> None:
    """d = 1, 2, 6: mean 3, s^2 = 7, t(2) = 4.302652729911275, so that half the width is 4.3027 sqrt(7 / 3)."""
    found = difference({0: 3.0, 1: 5.0, 2: 10.0}, {2: 4.0, 1: 3.0, 0: 2.0})
    assert (found.mean, found.pairs) == (3.0, 3)
    assert found.high - 3 == pytest.approx(4.302652729911275 * (7 / 3) ** 0.5, rel=1e-9)
    assert 3 - found.low == pytest.approx(found.high - 3, rel=1e-12)


def test_intervals_are_those_of_the_formulas() -> None:
    from scipy.special import stdtrit

    random = np.random.default_rng(0)
    a, b = random.normal(1, 2, 7), random.normal(0, 1, 4)
    d = a[:4] - b
    half = stdtrit(3, 0.975) * d.std(ddof=1) / 2
    found = difference(dict(enumerate(a)), dict(enumerate(b)))  # over the four seeds that both have
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half), rel=1e-9)
    u, v = a.var(ddof=1) / 7, b.var(ddof=1) / 4
    mean, half = a.mean() - b.mean(), stdtrit((u + v) ** 2 / (u**2 / 6 + v**2 / 3), 0.975) * np.sqrt(u + v)
    found = difference(dict(enumerate(a)), {seed + 100: value for seed, value in enumerate(b)})
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-9)
    assert found.pairs is None


def test_too_few_values_give_a_difference_without_an_interval_and_equal_ones_one_of_no_width() -> None:
    assert difference({0: 3.0}, {0: 1.0}) == difference({0: 3.0}, {1: 1.0, 2: 1.0})
    assert difference({0: 3.0}, {0: 1.0}).low is None
    assert difference({}, {0: 1.0}) is None
    for seeds in ((0, 1), (5, 6)):
        found = difference(dict.fromkeys((0, 1), 3.0), dict.fromkeys(seeds, 1.0))
        assert (found.low, found.mean, found.high) == (2.0, 2.0, 2.0)


# What differs


CHOICES = [file for group in GROUPS for file in sorted(Path(config_folder(), group).glob("*.yaml"))]


@pytest.mark.parametrize("file", CHOICES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_a_choice_is_known_by_its_settings(file: Path) -> None:
    asked_for = {"lr": 0.5, "batch_size": 64, "k": 3}
    assert choice_of(file.parent.name, read_yaml(file) | asked_for) == file.stem


def test_a_choice_of_the_users_own_is_called_as_its_class() -> None:
    assert choice_of("norm", {"_target_": "my.package.Norm", "k": 3}) == "Norm"
    assert choice_of("callbacks", {"_target_": None}) == "none"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([[], ["norm=none"]], ["norm"]),
        ([[], ["norm=none"], ["norm.placement=after"]], ["norm", "norm.placement"]),
        ([[], ["norm=ghost"], ["norm=ghost", "norm.virtual_batch_size=16"]], ["norm", "norm.virtual_batch_size"]),
        ([["optimizer=momentum"], ["optimizer=nesterov"]], ["optimizer"]),
        ([[], ["optimizer=momentum"], ["optimizer=momentum", "optimizer.lr=0.3"]], ["optimizer", "optimizer.lr"]),
        ([[], ["trainer.max_epochs=3"]], ["trainer.max_epochs"]),  # and the T_max of the schedule with it
        ([[], ["model.num_units=3"]], ["model.num_units"]),  # and the list of widths
        ([[], ["model.hidden=[3]"]], ["model.hidden"]),
        ([[], ["data.batch_size=full", "data.normalize=false"]], ["data.batch_size", "data.normalize"]),
        ([[], ["seed=3", "logger=tensorboard"]], []),
        ([["optimizer.lr=1"], ["optimizer.lr=1.0"]], []),
        ([[], ["norm._target_=my.Norm", "+norm.k=3"]], ["norm"]),
    ],
    ids=str,
)
def test_settings_that_differ_are_those_that_were_chosen(overrides, expected) -> None:
    assert differing([settings(*of_run) for of_run in overrides]) == expected


def test_a_default_that_has_changed_since_is_a_difference() -> None:
    config = OmegaConf.to_container(compose(), resolve=True)
    old = {**config, "norm": {**config["norm"], "eps": 1e-3}}
    assert differing([read_settings(config), read_settings(old)]) == ["norm.eps"]


def test_a_setting_that_came_later_is_none_where_it_has_its_default() -> None:
    config = OmegaConf.to_container(compose(), resolve=True)
    old = {**config, "data": {key: value for key, value in config["data"].items() if key != "split_seed"}}
    for value, expected in ((0, []), (1, ["data.split_seed"])):
        new = {**config, "data": {**config["data"], "split_seed": value}}
        assert differing([read_settings(old), read_settings(new)]) == expected


# Arms


def result(seed: int, accuracy: float | None, status: str = "completed", owner: str = "sweep", **values) -> Result:
    found = {} if accuracy is None else {"val_accuracy": accuracy, "test_accuracy": accuracy / 2}
    return Result(f"{owner}/{seed}", owner, Settings(values), seed, Status(status), values=found)


def test_runs_equal_but_for_the_seed_make_one_arm() -> None:
    keys, arms = arms_of([result(seed, 0.5, lr=lr, norm=norm) for lr in (0.1, 1) for norm in "ab" for seed in (0, 1)])
    assert keys == ["lr", "norm"]
    assert [arm.label for arm in arms] == ["lr=0.1, norm=a", "lr=0.1, norm=b", "lr=1, norm=a", "lr=1, norm=b"]
    assert [[run.seed for run in arm.results] for arm in arms] == [[0, 1]] * 4


def test_a_setting_that_is_null_is_none_that_is_not_there() -> None:
    _, arms = arms_of([result(0, 0.5, momentum=None), result(1, 0.5), result(2, 0.5, momentum=0.5)])
    assert [dict(arm.settings) for arm in arms] == [{"momentum": "null"}, {}, {"momentum": "0.5"}]


def test_the_same_seed_twice_makes_an_arm_of_each_folder_and_of_a_sweep_the_run_that_got_furthest() -> None:
    _, arms = arms_of([result(seed, 0.5, owner=owner) for owner in ("a", "b") for seed in (0, 1)])
    assert [arm.label for arm in arms] == ["a", "b"]
    _, arms = arms_of([result(0, None, "interrupted"), result(0, 0.7), result(1, 0.5)])
    assert [arm.values("val_accuracy") for arm in arms] == [{0: 0.7, 1: 0.5}]


def test_what_was_cut_short_counts_only_where_nothing_else_does() -> None:
    of = [result(0, 0.9), result(1, 0.1, "interrupted"), result(2, 0.3, "diverged"), result(3, None, "failed")]
    (arm,) = arms_of(of)[1]
    assert arm.values("val_accuracy") == {0: 0.9, 2: 0.3}
    assert arm.runs() == "4 (1 diverged, 1 failed, 1 interrupted)"
    (arm,) = arms_of([of[1]])[1]
    assert arm.values("val_accuracy") == {1: 0.1}


# Tables

PLAIN = [result(seed, value, norm="none", lr=0.1) for seed, value in enumerate((0.90, 0.92, 0.97))]
NORMED = [result(seed, value, norm="batch", lr=0.1) for seed, value in enumerate((0.95, 0.96, 0.97))]
SHORT = [
    result(seed, value, status, norm="batch", lr=10.0)
    for seed, (value, status) in enumerate(((0.99, "completed"), (None, "diverged"), (None, "failed")))
]
METRICS = ["val_accuracy", "test_accuracy"]


def table(results=(*PLAIN, *NORMED, *SHORT), baseline=None):
    keys, arms = arms_of(results)
    return make_table(keys, arms, METRICS, baselines(keys, arms, baseline))


def test_a_csv_has_the_numbers_at_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table()))))
    assert [(row["norm"], row["lr"], row["runs"], row["seeds"]) for row in rows] == [
        ("none", "0.1", "3", "0 1 2"),
        ("batch", "0.1", "3", "0 1 2"),
        ("batch", "10", "3", "0 1 2"),
    ]
    d = [0.05, 0.04, 0.0]
    half = 4.302652729911275 * np.std(d, ddof=1) / 3**0.5
    for metric, share in (("val_accuracy", 1), ("test_accuracy", 0.5)):
        second = {key.removeprefix(f"{metric}_"): float(value) for key, value in rows[1].items() if metric in key}
        assert second == pytest.approx(
            {
                "mean": 0.96 * share,
                "deviation": 0.01 * share,
                "number": 3,
                "difference": 0.03 * share,
                "low_95%": (0.03 - half) * share,
                "high_95%": (0.03 + half) * share,
                "pairs": 3,
            },
            rel=1e-9,
        )
    assert [rows[2][key] for key in ("completed", "diverged", "failed", "val_accuracy_number")] == ["1"] * 4
    assert [rows[0]["val_accuracy_difference"], rows[2]["val_accuracy_low_95%"]] == ["", ""]


def test_markdown_has_the_best_in_bold_but_none_that_lacks_seeds() -> None:
    lines = to_markdown(table()).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[:5]]
    assert cells[0] == ["", "norm", "lr", "runs", *("val accuracy", "test accuracy"), *cells[0][6:]]
    assert cells[2][:6] == ["1", "none", "0.1", "3", "93.00 ± 3.61 %", "46.50 ± 1.80 %"]
    assert cells[3][4:] == [
        "**96.00 ± 1.00 %**",
        "**48.00 ± 0.50 %**",
        "+3.00 [-3.57, +9.57] pp",
        "+1.50 [-1.79, +4.79] pp",
    ]
    assert cells[4][3:6] == ["3 (1 diverged, 1 failed)", "99.00 % (1 of 3)", "49.50 % (1 of 3)"]
    notes = "\n".join(lines[5:])
    assert "Differences are from norm=none, lr=0.1." in notes
    assert "Student's 95% confidence interval (paired by seed)" in notes


def test_means_that_are_written_alike_are_both_the_best() -> None:
    runs = [result(0, 0.95, norm="a"), result(0, 0.950001, norm="b"), result(0, 0.94, norm="c")]
    assert table(runs).best["val_accuracy"] == {0, 1}
    assert table(runs[:1]).best["val_accuracy"] == set()


def latex_rows(text: str) -> list[list[str]]:
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [re.split(r"(?<!\\)&", line.removesuffix(" \\\\")) for line in body.splitlines()]


ODD = {
    "[100, 100]": "{[}100, 100{]}",
    "50 % & more": r"50 \% \& more",
    "a_b^c~d": r"a\_b\textasciicircum{}c\textasciitilde{}d",
    "C:\\x{y}": r"C:\textbackslash{}x\{y\}",
    "*": "{*}",
    "#1 <|>": r"\#1 \textless{}\textbar{}\textgreater{}",
    "a--b---c,,": "a-{}-b-{}-{}-c,{},",  # which would be dashes, and a quotation mark
    "''?`": r"\textquotesingle{}\textquotesingle{}?\textasciigrave{}",  # and so would these
    "-2.5": "$-$2.5",
    "-x": "-x",
    "β=0.9, Δ, Α, ς, λ, ο": r"$\beta$=0.9, $\Delta$, Α, $\varsigma$, $\lambda$, $o$",
    "cafe\u0301": "café",
}


def test_latex_escapes_what_it_would_take_for_its_own() -> None:
    runs = [result(seed, 0.9 + seed / 100, hidden=text, norm="a") for text in ODD for seed in (0, 1)]
    rows = latex_rows(to_latex(table(runs)))
    assert {len(row) for row in rows} == {6}
    assert [row[0].strip() for row in rows] == list(ODD.values())
    best = to_latex(table())
    assert r"\textbf{96.00 $\pm$ 1.00}" in best
    assert r"$+$3.00 [$-$3.57, $+$9.57]" in best


def test_latex_says_which_letters_its_usual_fonts_lack() -> None:
    assert "for these letters: б日\n" in to_latex(table([result(0, 0.9, norm="日б"), result(0, 0.9, norm="β")]))
    assert "letters" not in to_latex(table([result(0, 0.9, norm="ü"), result(0, 0.9, norm="β")]))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    greek = "αβγδεζηθικλμνξοπρστυφχψωςΓΔΘΛΞΠΣΥΦΨΩ"  # no capitals that look as Latin ones
    texts = [*(text.replace("Α", "") for text in ODD), greek]
    runs = [result(seed, 0.9 + seed / 100, hidden=text, norm="a") for text in texts for seed in (0, 1)]
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "table.tex").write_text(f"{head}{to_latex(table(runs))}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-500:]
    if shutil.which("pdftotext") is not None:
        words = subprocess.run(["pdftotext", "table.pdf", "-"], cwd=tmp_path, capture_output=True, text=True).stdout
        for text in ("[100, 100]", "50 % & more", "#1 <|>", "a--b---c,,", "''?`", "−2.5", "90.50 ± 0.71"):
            assert text in words


def arms_with(*settings_of_arms: str) -> tuple[list[str], list[Arm]]:
    parsed = [dict(part.split("=") for part in text.split()) for text in settings_of_arms]
    return arms_of([result(0, 0.5, **of_arm) for of_arm in parsed])


def test_a_baseline_that_fits_several_rows_is_for_each_the_one_with_its_other_settings() -> None:
    keys, arms = arms_with("norm=none lr=1", "norm=none lr=2", "norm=batch place=a lr=1", "norm=batch place=b lr=2")
    assert baselines(keys, arms, "norm=none") == [0, 1, 0, 1]
    assert baselines(keys, arms, "norm=none,lr=2.0") == [1, 1, 1, 1]
    assert baselines(keys, arms, "place=a") == [2, 2, 2, 2]
    assert baselines(keys, arms, "norm=batch") == [2, 3, 2, 3]
    assert baselines(keys, arms, None) == [0, 0, 0, 0]
    keys, arms = arms_with("norm=none lr=1", "norm=none lr=2", "norm=batch lr=3")
    assert baselines(keys, arms, "norm=none") == [0, 1, None]


@pytest.mark.parametrize("wanted", ["norm", "norm=foo", "x=1", "=", "lr=none"])
def test_a_baseline_that_is_not_there_is_an_error_that_says_what_is(wanted: str) -> None:
    keys, arms = arms_with("norm=none lr=1", "norm=batch lr=2")
    with pytest.raises(UserError, match=r"`--baseline` must be settings .*(norm=none, lr=1|differ are norm, lr)"):
        baselines(keys, arms, wanted)


def test_the_metrics_of_a_table_are_those_of_the_objective(tmp_path: Path) -> None:
    found = compare([record(tmp_path / "a", "objective=val_loss"), record(tmp_path / "b", "seed=1")])
    assert found.table.metrics == ["val_loss", "test_loss"]
    assert found.table.rows[0].estimates["val_loss"].mean == pytest.approx(0.1)
