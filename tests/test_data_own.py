"""Data sets from files of the user's own."""

import json
import os

import numpy as np
import pytest
import torch

from bnlab.data import from_csv, from_npz
from bnlab.errors import UserError

NAMES = ("setosa", "versicolor", "virginica")


def iris() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_iris

    data = load_iris()
    return data.data, np.array(NAMES)[data.target]


def write_csv(path, x, y, delimiter=",", header=("a", "b", "c", "d", "kind"), encoding="utf-8"):
    lines = [
        delimiter.join(header),
        *(delimiter.join(map(str, [*row, label])) for row, label in zip(x, y, strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def rows_of(splits):
    """(N, features + 1) of all parts together, sorted: what was read, wherever it went."""
    parts = (splits.train, splits.val, splits.test)
    table = np.column_stack(
        [
            np.concatenate([part.x.flatten(1).numpy() for part in parts]),
            np.concatenate([part.y.numpy() for part in parts]),
        ]
    )
    return table[np.lexsort(table.T)]


def sorted_rows(x, classes):
    table = np.column_stack([x, classes])
    return table[np.lexsort(table.T)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_file_is_read_to_the_last_bit_and_cut_class_by_class(tmp_path, delimiter, encoding) -> None:
    x, y = iris()
    splits = from_csv(write_csv(tmp_path / "iris.csv", x, y, delimiter, encoding=encoding), "kind")
    classes = np.searchsorted(NAMES, y)
    assert np.array_equal(rows_of(splits), sorted_rows(x, classes))
    assert splits.class_names == NAMES
    assert splits.num_classes == 3
    for part, size in ((splits.train, 30), (splits.val, 10), (splits.test, 10)):
        assert part.y.bincount().tolist() == [size] * 3


def test_the_split_is_a_function_of_its_seed(tmp_path) -> None:
    path = write_csv(tmp_path / "iris.csv", *iris())
    first, again, other = (from_csv(path, "kind", split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.train.x, other.train.x)


def test_classes_that_are_numbers_keep_their_order_and_any_column_can_be_the_target(tmp_path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text('class, "x, quoted",id\n' + "".join(f"{2 if i % 2 else '10.0'},{i}.5,n{i}\n" for i in range(40)))
    splits = from_csv(str(file), "class", drop=["id"])
    assert splits.class_names == ("2", "10")
    of_class = {
        float(x): int(y)
        for part in (splits.train, splits.val, splits.test)
        for x, y in zip(part.x, part.y, strict=True)
    }
    assert of_class == {i + 0.5: 0 if i % 2 else 1 for i in range(40)}


@pytest.mark.parametrize(
    "content",
    [
        "a,b,kind,\n{}1.5,-2,dog,\n".format("0.5,3,cat,\n1.5,-2,dog,\n" * 9 + "0.5,3,cat,\n"),
        "a;b;kind\n" + "0.5;TRUE;cat\n1.5;FALSE;dog\n" * 10,
        '"a, the first | of two\nmeasured";b;kind\n' + "0.5;true;cat\n1.5;False;dog\n" * 10,
        ",a,b,kind\n" + "7,0.5,3,cat\n8,1.5,-2,dog\n" * 10,
    ],
    ids=["delimiter at the end", "true and false", "delimiters in a name", "index without a name"],
)
def test_tables_as_programs_write_them_are_read(tmp_path, content) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    splits = from_csv(str(file), "kind", drop=[""] if content.startswith(",") else [])
    cat, dog = (1, 0) if ";" in content else (3, -2)
    assert rows_of(splits).tolist() == sorted_rows([[0.5, cat], [1.5, dog]] * 10, [0, 1] * 10).tolist()


@pytest.mark.parametrize(
    ("content", "target", "told"),
    [
        ("", "y", "is empty, but its first line must name the columns"),
        ("a,y\n", "y", "has no rows below its first line"),
        ("1,2\n3,4\n", "y", "first line of t.csv must name the columns, but holds numbers: '1', '2'"),
        ("a,kind\n1,2\n", "knd", "has no column 'knd': did you mean 'kind'"),
        ("a,b\n1,2\n", "target", "has no column 'target': it has 'a', 'b'"),
        ("a,a,y\n1,2,3\n", "y", "'a' names two"),
        ("a,y\n1,2\n1\n", "y", "has 2 columns, but 1 in line 3"),
        ("a,city,y\n1,Bern,0\n2,Rome,1\n", "y", r"column 'city' .* has 'Bern' in row 1 .* 'data.drop=\[city\]'"),
        ("a,y\n1,0\n,1\n", "y", r"column 'a' .* has nothing in row 2"),
        ("a,y\n1,0\n2,\n3,x\n", "y", "1 are empty, the first in sample 1"),
        ("a,y\n1,0.5\n2,1\n", "y", r"must hold classes, but sample 0 has 0.5: task=regression"),
        ("a,y\n1,nan\n2,1\n", "y", r"must hold classes, but sample 0 has nan"),
        ("y\n1\n2\n", "y", "no column beside the target"),
        ("a,y\n" + "".join(f"1,{i}\n" for i in range(1001)), "y", "at most 1000 classes, but got 1001"),
        ("a,y\nnan,0\n" + "1,0\n2,1\n" * 10, "y", r"column 'a' .* has 'nan' in row 1 .* fill it in"),
        ("a,y\n" + "1,0\n2,1\n" * 9 + "inf,1\n", "y", r"column 'a' .* has 'inf' in row 19"),
        ("a;y\n0,5;0\n1,5;1\n", "y", r"column 'a' .* has '0,5' in row 1 .* with a point for the decimals"),
        ("a;y\n1,234.5;0\n2;1\n", "y", r"has '1,234.5' in row 1 .* without commas"),
        (",a,y\n0,1,0\n1,2,1\n", "y", r"""number 1 has none: name it, or .* by 'data\.drop=\[""\]'"""),
        ("a,y\n" + "1,cat\n2,dog\n" * 9 + "3,rare\n", "y", r"of \['rare'\] there is one among 19: leave such"),
        ("a,y\n" + "1,0\n" * 10, "y", "at least 2 classes, but all samples are of '0'"),
        ("a,y\n1,0\n1,1\n", "y", "Each class needs at least 2 samples"),
        ('a,y\n"1,0\n', "y", "has 2 columns, but 1 in line"),
    ],
)
def test_what_is_no_table_is_said_in_one_line(tmp_path, content, target, told) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=told) as error:
        from_csv(str(file), target)
    assert "\n" not in str(error.value)


def test_what_is_no_text_or_no_file_is_said(tmp_path) -> None:
    (tmp_path / "latin.csv").write_bytes("a,y\n1,é\n".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe")
    for name, told in (
        ("latin.csv", "line 2 is not: save it as UTF-8"),
        ("none.csv", "does not exist"),
        ("pipe", "is not a file"),
        (".", "cannot be read: Is a directory"),
    ):
        with pytest.raises(UserError, match=told):
            from_csv(str(tmp_path / name), "y")
    path = write_csv(tmp_path / "iris.csv", *iris())
    with pytest.raises(UserError, match="a single character"):
        from_csv(path, "kind", delimiter="::")
    with pytest.raises(UserError, match="must stay below 1"):
        from_csv(path, "kind", val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match=r"which `data\.drop` leaves out"):
        from_csv(path, "kind", drop=["kind"])


def test_arrays_are_read_whole_or_in_parts_and_numbered_alike(tmp_path) -> None:
    x, y = iris()
    classes = np.searchsorted(NAMES, y)
    np.savez(tmp_path / "whole.npz", x=x.reshape(-1, 2, 2), y=y)
    whole = from_npz(str(tmp_path / "whole.npz"))
    assert whole.sample_shape == (2, 2)
    assert np.array_equal(rows_of(whole), sorted_rows(x, classes))

    order = np.random.default_rng(0).permutation(150)
    train, val, test = order[:90], order[90:120], order[120:]
    parts = {
        f"{a}_{part}": of[where]
        for a, of in (("x", x), ("y", y))
        for part, where in (("train", train), ("val", val), ("test", test))
    }
    np.savez_compressed(tmp_path / "parts.npz", **parts)
    splits = from_npz(str(tmp_path / "parts.npz"))
    for part, where in ((splits.train, train), (splits.val, val), (splits.test, test)):
        assert np.array_equal(part.x.numpy(), x[where])
        assert np.array_equal(part.y.numpy(), classes[where])

    without = {key: value for key, value in parts.items() if "val" not in key}
    np.savez(tmp_path / "two.npz", **without)
    splits = from_npz(str(tmp_path / "two.npz"), val_fraction=0.2)
    assert (len(splits.train), len(splits.val)) == (72, 18)
    assert np.array_equal(splits.test.x.numpy(), x[test])


class Unpickled:
    def __reduce__(self):
        return os.mkdir, ("/tmp/was_unpickled",)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones((4, 2))}, "lacks y: it has x"),
        ({"x_train": np.ones((4, 2)), "y_train": np.arange(4)}, "lacks x_test, y_test"),
        ({"x": np.ones((4, 2)), "y": np.eye(4)}, r"y of t.npz must have the shape \(N,\)"),
        ({"x": np.array([["a"], ["b"]]), "y": np.arange(2)}, "x of t.npz must hold real numbers"),
        ({"x": np.ones((4, 2)), "y": np.arange(3)}, "as many samples as labels, but got 4 and 3"),
        ({"x": np.ones((2, 2)), "y": np.array([Unpickled(), 1], dtype=object)}, "y of t.npz is an array of Python"),
        ({"x": np.ones((0, 2)), "y": np.ones(0, dtype=int)}, "y of t.npz must hold a label for each sample, but is"),
        ({"x": np.ones((2, 2)), "y": np.array([0.5, 1])}, "task=regression"),
    ],
    ids=["no y", "no test", "one-hot", "text", "lengths", "objects", "nothing", "real"],
)
def test_arrays_that_cannot_be_trained_on_are_refused(tmp_path, arrays, told) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UserError, match=told):
        from_npz(str(tmp_path / "t.npz"))


def test_what_is_no_archive_is_refused(tmp_path) -> None:
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 no archive")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(UserError, match="cannot be read as arrays"):
        from_npz(str(tmp_path / "t.npz"))
    with pytest.raises(UserError, match="holds a single array"):
        from_npz(str(tmp_path / "one.npy"))


def test_a_run_on_a_csv_file_learns_and_names_its_classes(train, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "iris.csv", *iris())
    outcome = train("data=csv", "data.path=iris.csv", "data.target=kind", "hydra.run.dir=run")
    assert outcome.exit_code == 0, outcome.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.85  # setosa alone is 1/3; linear discriminants reach 0.98
    assert summary["class_names"] == list(NAMES)

    import bnlab
    from bnlab.evaluate import evaluate

    assert bnlab.load("run").summary["num_classes"] == 3
    assert evaluate("run")["test_accuracy"] == summary["test_accuracy"]
    refused = train("data=csv", "hydra.run.dir=other")
    assert refused.exit_code == 2
    assert "`data.path` must be the path of a file, but got null." in refused.stderr
