"""A study in a database: sweeps that share it, and a PostgreSQL server that the tests start."""

import csv
import importlib
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState
from test_search_processes import LR, run, start

from bnlab.bench.chaos.database import NoServerError, Server
from bnlab.search.spaces.space import Space
from bnlab.search.study.design import Design
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.journal import Journal, mend
from bnlab.search.study.own_study import OwnStudy
from bnlab.search.study.plan import Plan
from bnlab.search.study.storage import close, open_storage

NUM_TRIALS = 24


@pytest.fixture(scope="module")
def postgresql():
    """The address of a server of this test's own."""
    try:
        server = Server()
    except NoServerError as error:
        pytest.skip(str(error))
    yield server.url
    server.close()


def rows(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def succeed(processes):
    """Wait for all, so that none is left behind by a failure of another."""
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (stdout, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, f"{stdout}{stderr}"


def two_sweeps(folder, url, *arguments):
    """Two sweeps of one study at once, in two folders, as two machines would have them."""
    processes = [
        start(
            folder,
            *(f"search.storage={url}", "search.study=shared", f"hydra.sweep.dir={name}", *arguments),
            BNLAB_TEST_SECONDS="0.02",
        )
        for name in ("a", "b")
    ]
    succeed(processes)


def ran_in(folder, name):
    return [line.split() for line in (folder / name / "ran.txt").read_text().splitlines()]


def check_shared(folder, url):
    storage = open_storage(url, folder / "unused")
    study = optuna.load_study(study_name="shared", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * NUM_TRIALS
    a, b = ran_in(folder, "a"), ran_in(folder, "b")
    assert len(a) > 2
    assert len(b) > 2  # both had a share
    assert sorted(int(number) for number, *_ in a + b) == list(range(NUM_TRIALS))  # none lost, none doubled
    assert len({lr for _, lr, *_ in a + b}) == NUM_TRIALS
    by_number = {int(number): float(lr) for number, lr, *_ in a + b}
    assert {trial.number: trial.params["optimizer.lr"] for trial in study.trials} == by_number
    close(storage)


def test_two_sweeps_share_a_study_in_postgresql(tmp_path, postgresql):
    two_sweeps(tmp_path, postgresql, "search=random", f"search.num_trials={NUM_TRIALS}", "search.batch_size=2", LR)
    check_shared(tmp_path, postgresql)


def test_two_sweeps_share_a_grid_in_postgresql(tmp_path, postgresql):
    values = [10 ** (-i / 8) for i in range(NUM_TRIALS)]
    url = f"{postgresql}?application_name=grid"
    processes = [
        start(
            tmp_path,
            f"optimizer.lr={','.join(map(repr, values))}",
            *(f"search.storage='{url}'", "search.study=grid", f"hydra.sweep.dir={name}", "search.batch_size=3"),
        )
        for name in ("a", "b")
    ]
    succeed(processes)
    tried = [float(lr) for name in ("a", "b") for _, lr, *_ in ran_in(tmp_path, name)]
    assert sorted(tried) == sorted(values)


def test_a_sweep_in_postgresql_is_resumed(tmp_path, postgresql):
    arguments = ("search=random", "search.num_trials=10", LR, "hydra.sweep.dir=s", "search.batch_size=3")
    process = start(tmp_path, *arguments, f"search.storage={postgresql}", BNLAB_TEST_SECONDS="0.2")
    deadline = time.monotonic() + 30
    while not (tmp_path / "s" / "4").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    code, stdout, stderr = run(tmp_path, "search.resume=s", "search.trust=true")
    assert code == 0, stdout + stderr
    statuses = [row["status"] for row in rows(tmp_path / "s")]
    assert statuses.count("completed") == 10
    assert statuses.count("interrupted") == 1


def test_a_sweep_in_sqlite_is_a_sweep_like_any(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    two_sweeps(tmp_path, url, "search=random", f"search.num_trials={NUM_TRIALS}", "search.batch_size=2", LR)
    check_shared(tmp_path, url)


OPEN = """
import sys, time
from bnlab.search.study.storage import open_storage
for number in range(8):
    time.sleep(max(0, float(sys.argv[2]) + number - time.time()))  # all at once
    assert open_storage(sys.argv[1].format(number), None).get_all_studies() == []
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_new_database_is_opened_by_many_at_once(kind, tmp_path, request):
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/{{}}.db"
    else:
        server = request.getfixturevalue("postgresql")
        url = f"{server.rpartition('/')[0]}/many{{}}"
        with importlib.import_module("psycopg").connect(server, autocommit=True) as connection:
            for number in range(8):
                connection.execute(f"CREATE DATABASE many{number}")
    command = [sys.executable, "-c", OPEN, url, str(time.time() + 5)]
    succeed([subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)])


TAKE = """
import sys, time
from optuna.trial import TrialState
from bnlab.search.study.storage import open_storage
storage = open_storage(sys.argv[1], None)
study = storage.get_study_id_from_name("s")
time.sleep(max(0, float(sys.argv[2]) - time.time()))  # all at once
for number in range(150):
    trial = storage.get_trial_id_from_study_id_trial_number(study, number)
    if storage.set_trial_state_values(trial, state=TrialState.RUNNING):
        print(number)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_trial_is_taken_by_one_process_only(kind, tmp_path, request):
    url = f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    storage = open_storage(url, None)
    study = optuna.create_study(storage=storage, study_name="s")
    for _ in range(150):
        study.enqueue_trial({})
    close(storage)
    start = str(time.time() + 5)
    takers = [
        subprocess.Popen([sys.executable, "-c", TAKE, url, start], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    taken = [int(line) for taker in takers for line in taker.communicate()[0].split()]
    assert sorted(taken) == list(range(150))


@pytest.mark.parametrize("has_finished", [False, True])
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_trial_that_another_sweep_was_faster_at_is_left_to_it(kind, has_finished, tmp_path, monkeypatch):
    def opened():
        return open_storage(f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else None, tmp_path / "s.journal")

    storage, of_another = opened(), opened()
    study = optuna.create_study(storage=storage, study_name="s")
    own = OwnStudy(study, storage, sweep_id="x", folder=tmp_path, worst=1.0)
    plan = Plan(own, Design(Space((), {}), num_points=2, seeds=1))
    plan.add_missing()
    waiting = storage.get_all_trials

    def slowly(*arguments, **named):
        """Another sweep has its turn between looking and taking."""
        seen = waiting(*arguments, **named)
        first = of_another.get_all_trials(of_another.get_study_id_from_name("s"))[0]
        of_another.set_trial_state_values(first._trial_id, state=TrialState.RUNNING)
        if has_finished:
            of_another.set_trial_state_values(first._trial_id, state=TrialState.COMPLETE, values=[0.5])
        return seen

    monkeypatch.setattr(storage, "get_all_trials", slowly)
    assert [trial.number for trial in plan.take(2, None)] == [1]
    monkeypatch.undo()
    close(storage)
    close(of_another)


def test_sweeps_that_share_a_study_must_ask_for_the_same(tmp_path):
    arguments = (f"search.storage=sqlite:///{tmp_path}/s.db", "search.study=x", "search=random", "search.num_trials=2")
    assert run(tmp_path, *arguments, LR)[0] == 0
    code, _, stderr = run(tmp_path, *arguments, "optimizer.lr=interval(0.1,1)")
    assert code == 2
    assert "The study 'x' has space" in stderr
    assert stderr.count("\n") == 1


def test_an_address_from_the_environment_is_not_written_down(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db?timeout=77"
    arguments = ("search=random", "search.num_trials=2", LR, "search.storage=${oc.env:STUDY}", "hydra.sweep.dir=s")
    code, stdout, stderr = run(tmp_path, *arguments, STUDY=url)
    assert code == 0, stdout + stderr
    assert all("timeout=77" not in file.read_text() for file in (tmp_path / "s").glob("*.[ymc]*"))
    assert run(tmp_path, "search.resume=s", "search.storage=${oc.env:STUDY}", STUDY=url)[0] == 0


def test_optunas_own_class_reads_and_continues_the_journal(tmp_path):
    """What optuna-dashboard opens."""
    study = optuna.create_study(storage=optuna.storages.JournalStorage(Journal(tmp_path / "j")), study_name="s")
    for value in (3.0, 1.0):
        study.tell(study.ask(), value)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "j"))
    again = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    assert again.best_value == 1.0
    again.tell(again.ask(), 0.5)
    assert study.best_value == 0.5


def test_a_torn_last_line_is_mended(tmp_path):
    path = tmp_path / "j"
    study = optuna.create_study(storage=optuna.storages.JournalStorage(Journal(path)), study_name="s")
    study.tell(study.ask(), 3.0)
    with path.open("a") as file:
        file.write('{"op_code": 4, "wor')
    mend(path)
    again = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(Journal(path)))
    again.tell(again.ask(), 1.0)
    reread = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(Journal(path)))
    assert [trial.value for trial in reread.trials] == [3.0, 1.0]


def test_the_dashboard_shows_a_sweep(tmp_path):
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    code, _, stderr = run(tmp_path, "search=random", "search.num_trials=3", LR, "hydra.sweep.dir=s")
    assert code == 0, stderr
    script = """
import sys, json
from wsgiref.util import setup_testing_defaults
from optuna_dashboard import wsgi
from optuna_dashboard._storage_url import get_storage
environ = {}; setup_testing_defaults(environ); environ["PATH_INFO"] = "/api/studies"
body = b"".join(wsgi(get_storage(sys.argv[1]))(environ, lambda *arguments: None))
print([study["study_name"] for study in json.loads(body)["study_summaries"]])
"""
    import sys

    journal = SweepFolder(tmp_path / "s").journal
    shown = subprocess.run([sys.executable, "-c", script, str(journal)], capture_output=True, text=True, timeout=60)
    assert "-s']" in shown.stdout, shown.stderr
