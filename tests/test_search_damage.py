"""A sweep goes on in a folder with damaged files: what they said is done again, and they are kept aside."""

import os

import pytest
from simulated_sweep import LR, smooth

DAMAGES = {
    "empty": b"",
    "an object": b"{}",
    "a list": b"[]",
    "null": b"null",
    "text": b'"completed"',
    "binary": bytes(range(256)),
    "NULs": bytes(300),
    "deep": b"[" * 100_000,
}
OF_SUMMARIES = DAMAGES | {
    "half": b'{"status": "completed", "objec',
    "unknown status": b'{"status": "done", "objective": 0.5}',
    "status of another type": b'{"status": ["completed"], "objective": 0.5}',
    "objective of another type": b'{"status": "completed", "objective": "0.5"}',
    "seconds of another type": b'{"status": "completed", "objective": 0.5, "seconds": []}',
    "error of another type": b'{"status": "failed", "error": 5}',
}


# What would be waited for without end, or fill the memory.
NO_FILES = {
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "itself": lambda file: file.symlink_to(file),
    "nearly all holes": lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 40),
}


def untold(folder):
    """As if the sweep had been killed before it told the study of any trial."""
    journal = folder / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if b'"result"' in line)
    journal.write_bytes(b"".join(line for line in lines[:first]))


def damage(file, content):
    file.unlink(missing_ok=True)
    if callable(content):
        content(file)
    elif content is None:
        file.mkdir()
    else:
        file.write_bytes(content)


def damages():
    yield from (("summary.json", content) for content in (*OF_SUMMARIES.values(), *NO_FILES.values(), None))
    half = b"seed: 0\ndata:\n  batch_size: 64\nnorm:\n  eps: 1.0e-05"  # valid YAML
    yield from (("config.yaml", content) for content in (*DAMAGES.values(), *NO_FILES.values(), half, None))
    yield from (
        ("metrics.csv", content) for content in (*DAMAGES.values(), *NO_FILES.values(), b"epoch,step\n1,2\n2", None)
    )


def test_a_trial_whose_files_are_damaged_is_done_again(sweep, train, monkeypatch):
    cases = list(damages())
    number = len(cases) + 2
    _, left = sweep("search=random", f"search.num_trials={number}", LR)
    before = left.rows
    untold(left.folder)
    for place, (name, content) in enumerate(cases):
        damage(left.folder / str(place) / name, content)
    ran = []
    monkeypatch.setattr("bnlab.train.task", lambda config: ran.append(repr(config.optimizer.lr)) or smooth(config))
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert sorted(ran) == sorted(row["optimizer.lr"] for row in before[: len(cases)])  # and no other
    assert [row["status"] for row in left.rows] == [*["interrupted"] * len(cases), *["completed"] * number]
    told = outcome.stderr.splitlines()
    assert len(told) == len(cases)
    for place, (name, content) in enumerate(cases):
        aside = left.folder / str(place) / f"{name}.damaged"
        assert os.path.lexists(aside)
        assert not isinstance(content, bytes) or aside.read_bytes() == content
        assert content is not None or aside.is_dir()
        assert (
            f"sweep/{place}/{name} is damaged: it was renamed {aside.name}, and the trial will be trained again."
            in told
        )


def test_a_damaged_definition_is_one_line(sweep, train):
    _, left = sweep("search=random", "search.num_trials=2", LR)
    for name in ("sweep.yaml", "settings.json"):
        file = left.folder / name
        sound = file.read_bytes()
        contents = [*DAMAGES.values(), sound[: len(sound) // 2], sound[:-20], b"id: 5\n", os.mkfifo, None]
        contents += [sound.replace(b"minimize: false", b"minimize: 3")] if name == "sweep.yaml" else []
        for content in contents if name == "sweep.yaml" else contents[::3]:  # which are read alike
            damage(file, content)
            outcome = train("-m", "search.resume=sweep")
            assert outcome.exit_code == 2, content
            assert outcome.stderr.count("\n") == 1
            assert "Traceback" not in outcome.stderr
            if content is None:
                file.rmdir()
        damage(file, sound)
    assert train("-m", "search.resume=sweep").exit_code == 0


def test_a_sweep_of_an_earlier_version_is_refused_in_a_line_that_says_so(sweep, train):
    _, left = sweep("search=random", "search.num_trials=2", LR)
    file = left.folder / "sweep.yaml"
    stored = file.read_text()
    assert stored.count("num_points: 2") == stored.count("pruner: null") == 1
    file.write_text(stored.replace("num_points: 2", "trials_per_round: 2").replace("pruner: null", "pruner: none"))
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 2
    assert "an earlier version of bnlab began it; start a new sweep" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content", [*DAMAGES.values(), "half", os.mkfifo, None], ids=[*DAMAGES, "half", "a pipe", "a folder"]
)
def test_a_damaged_journal_is_set_aside_and_the_sweep_goes_on(sweep, train, content):
    _, left = sweep("search=random", "search.num_trials=4", LR)
    before = {row["optimizer.lr"]: row["val_accuracy"] for row in left.rows}
    journal = left.folder / "study.journal"
    sound = journal.read_bytes()
    if content == "half":
        middle = sound.index(b'"result"')  # in a line that the folder of its trial knows, too
        content = sound[:middle] + b"\0rubbish\n" + sound[middle:]
    damage(journal, content)
    outcome = train("-m", "search.resume=sweep")
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert outcome.stderr.count("\n") == 1
    if content == b"":  # nothing says that it was ever more
        assert outcome.exit_code == 2
        return
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert "set aside" in outcome.stderr
    completed = [row for row in left.rows if row["status"] == "completed"]
    assert {row["optimizer.lr"]: row["val_accuracy"] for row in completed} == before
    assert len(completed) == 4
    assert len(list(left.folder.glob("study.journal.damaged-*"))) == 1
