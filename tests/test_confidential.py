"""Passwords and keys: nowhere but where they were given."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from simulated_sweep import LR, smooth
from test_search_storage import postgresql as postgresql  # a fixture

import bnlab
from bnlab.composing import overrides_of
from bnlab.config.confidential import from_environment, settings_to_write
from bnlab.config.settings import plain, plain_to_write
from bnlab.process.signals import UserInterrupt
from bnlab.stacked import train as train_stack
from bnlab.text.command_line import differences
from bnlab.text.concealing import conceal_address, override_to_write

PASSWORD, KEY, NOTE = "geheim-1234", "key-5678-abc", "note-90ab"


def files_with(folder: Path, *secrets: str) -> list[str]:
    """Whatever lies below `folder`, each by its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(file) for file in files if any(secret.encode() in file.read_bytes() for secret in secrets)]


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnlab.text.concealing._known", {})
    monkeypatch.setenv("BNLAB_TEST_KEY", KEY)
    monkeypatch.setenv("BNLAB_TEST_NOTE", NOTE)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:pw@host/db", "postgresql://user:***@host/db"),
        ("postgresql+psycopg://user:p/w:x@host:1/db?a=b", "postgresql+psycopg://user:***@host:1/db?a=b"),
        ("mysql://:pw@host/db", "mysql://:***@host/db"),
        ("postgresql://host/db?user=u&password=pw&sslmode=no", "postgresql://host/db?user=u&password=***&sslmode=no"),
        ("https://u:pw@host/x https://ghp_123@github.com", "https://u:***@host/x https://***@github.com"),
        ("https://ghp_123@github.com/x", "https://***@github.com/x"),
        ("postgresql://user:${oc.env:PW}@host/db", "postgresql://user:${oc.env:PW}@host/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("http://host:8080/x", "http://host:8080/x"),
    ],
)
def test_a_password_in_an_address_is_masked(address: str, shown: str) -> None:
    assert conceal_address(address) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("logger.api_key=abc", "logger.api_key=***"),
        ("+service.Password='a b'", "+service.Password=***"),
        ("++x.hf_token=1234", "++x.hf_token=***"),
        ("x.token='${oc.env:T}'", "x.token='${oc.env:T}'"),
        ("x.token=null", "x.token=null"),
        ("+logger={_target_:a.B,api_key:abc,n:1}", "+logger={_target_:a.B,api_key:***,n:1}"),
        ("model.token_size=3", "model.token_size=3"),
        ("model.num_tokens=3", "model.num_tokens=3"),
        ("search.storage=postgresql://u:pw@h/db", "search.storage=postgresql://u:***@h/db"),
    ],
)
def test_a_setting_that_is_named_like_a_secret_is_masked(line: str, shown: str) -> None:
    assert override_to_write(line) == shown


def test_what_comes_from_the_environment_stays_there_however_it_comes(secrets) -> None:
    config = OmegaConf.create(
        {
            "a": "${oc.env:BNLAB_TEST_NOTE}",
            "through": {"b": ["x", "in ${a}"], "c": "${..a}"},
            "number": "${oc.decode:${oc.env:BNLAB_TEST_NUMBER,'7'}}",
            "other": "${through.d}/1",
            "d": 3,
        }
    )
    config.through.d = 5
    assert settings_to_write(config) == {
        "a": "${oc.env:BNLAB_TEST_NOTE}",
        "through": {"b": ["x", "in ${a}"], "c": "${..a}", "d": 5},
        "number": "${oc.decode:${oc.env:BNLAB_TEST_NUMBER,'7'}}",
        "other": "5/1",
        "d": 3,
    }
    assert from_environment(config).keys() == {("a",), ("through", "b", 1), ("through", "c"), ("number",)}
    assert OmegaConf.to_container(config, resolve=True)["a"] == NOTE  # the resolver is itself again


def test_overrides_of_a_config_made_by_hand_hold_interpolations_that_run(secrets) -> None:
    config = bnlab.compose()
    config.model.activation = "tanh"
    OmegaConf.update(config, "note", "${oc.env:BNLAB_TEST_NOTE}", force_add=True)
    overrides = overrides_of(plain(config), plain_to_write(config))
    assert overrides == ["model.activation=tanh", '+note="${oc.env:BNLAB_TEST_NOTE}"']
    assert plain(bnlab.compose(overrides)) == plain(config)
    assert differences({}, {"a": "${b}"}) == ['+a="\\${b}"']  # a plain text is no interpolation


def secretive(folder: Path) -> list[str]:
    return [
        *("trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[4]", "logger=tensorboard"),
        "+notes.text='${oc.env:BNLAB_TEST_NOTE}'",
        *("+notes.service.api_key=${oc.env:BNLAB_TEST_KEY}", f"+notes.service.password={PASSWORD}"),
        f"+notes.service.uri=http://me:{PASSWORD}@localhost/x",
    ]


def test_a_run_writes_no_secret_into_any_file_and_its_folder_is_the_owners(secrets, train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = train(*secretive(folder), f"hydra.run.dir={folder}", "hydra.output_subdir=.hydra")
    assert outcome.exit_code == 0, outcome.stderr
    assert files_with(tmp_path, PASSWORD, KEY, NOTE) == []
    assert PASSWORD not in outcome.stdout + outcome.stderr
    assert outcome.stderr.count("\n") == 1  # of what is literal
    assert "`notes.service.password`, `notes.service.uri`" in outcome.stderr
    assert "notes.service.password='${oc.env:NAME}'" in outcome.stderr
    assert mode(folder) == "0o700"
    config = OmegaConf.load(folder / "config.yaml")
    assert config.notes.text == NOTE
    assert config.notes.service.api_key == KEY
    assert (config.notes.service.password, config.notes.service.uri) == ("***", "http://me:***@localhost/x")
    run = bnlab.load(folder)
    assert run.config.notes.text == "${oc.env:BNLAB_TEST_NOTE}"  # the reader's environment is not read
    outcome = train(*run.overrides, f"hydra.run.dir={tmp_path}/again")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("`notes.service.password` is '***', where *** stands for a secret")
    assert outcome.stderr.count("\n") == 1


def test_a_run_without_secrets_is_open_to_colleagues(train, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    umask = os.umask(0o022)
    try:
        train("trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[4]", f"hydra.run.dir={tmp_path}/run")
    finally:
        os.umask(umask)
    assert mode(tmp_path / "run") == "0o755"


def test_a_traceback_and_a_reason_hold_no_secret(secrets, train, tmp_path: Path, monkeypatch) -> None:
    def fail(config):
        raise RuntimeError(f"{config.notes.service.password} {config.notes.text} postgresql://u:{PASSWORD}@h")

    monkeypatch.setattr("bnlab.train.task", fail)
    arguments = [f"hydra.sweep.dir={tmp_path}/sweep", "search=random", "search.num_trials=1", LR]
    outcome = train("-m", *arguments, *secretive(tmp_path))
    assert outcome.exit_code == 1
    assert "*** ${oc.env:BNLAB_TEST_NOTE} postgresql://u:***@h" in outcome.stdout
    assert files_with(tmp_path, PASSWORD, KEY, NOTE) == []
    assert PASSWORD not in outcome.stdout + outcome.stderr
    assert "RuntimeError: ***" in (tmp_path / "sweep" / "0" / "train.log").read_text()


@pytest.mark.parametrize("launcher", ["joblib", "stacked"])
@pytest.mark.parametrize("kind", ["literal", pytest.param("environment", marks=pytest.mark.slow)])
def test_the_password_of_a_database_is_nowhere_while_a_sweep_runs_and_afterwards(
    launcher: str, kind: str, secrets, postgresql: str, tmp_path: Path
) -> None:
    """The workers need it, for the pruner; they get it all the same."""
    address = postgresql.replace("bnlab@", f"bnlab:{PASSWORD}@")
    given = address if kind == "literal" else "${oc.env:BNLAB_TEST_STUDY}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bnlab.train", "-m", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=1"),
            *(f"search.storage={given}", f"search.study={launcher}-{kind}", "hydra.sweep.dir=s", "search=random"),
            *("search.num_trials=2", LR, "trainer.max_epochs=2", "trainer.accelerator=cpu", "model.hidden=[4]"),
            *("search/pruner=median", f"+notes.service.api_key={KEY}", "+notes.text=${oc.env:BNLAB_TEST_NOTE}"),
        ],
        cwd=tmp_path,
        env={**os.environ, "BNLAB_TEST_STUDY": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # What stands there before a program has begun to run is the shell's, as its history is.
    while not (tmp_path / "s" / "sweep.yaml").exists() and process.poll() is None:
        time.sleep(0.01)
    seen: set[str] = set()
    while process.poll() is None:
        seen.update(command_lines())
        time.sleep(0.05)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    assert len([line for line in seen if f"search.study={launcher}-{kind}" in line]) == 1  # it was looked at
    assert [line for line in seen if PASSWORD in line or KEY in line] == []
    assert files_with(tmp_path, PASSWORD, KEY, NOTE) == []
    assert not any(secret in stdout + stderr for secret in (PASSWORD, KEY, NOTE))
    assert ("`search.storage`, `notes.service.api_key`: a secret that is given literally" in stderr) == (
        kind == "literal"
    )
    assert mode(tmp_path / "s") == "0o700"
    command = next(line for line in stdout.splitlines() if "-m bnlab.train" in line)
    assert "+notes.service.api_key=***" in command
    assert "+notes.text=${oc.env:BNLAB_TEST_NOTE}" in command


def command_lines() -> Iterator[str]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield file.read_bytes().decode(errors="replace")


def test_a_sweep_whose_password_was_not_written_down_goes_on_with_the_one_that_its_last_line_asks_for(
    secrets, postgresql: str, sweep, train, tmp_path: Path, monkeypatch
) -> None:
    def interrupted(config):
        raise UserInterrupt

    address = postgresql.replace("bnlab@", f"bnlab:{PASSWORD}@")
    arguments = ("search=random", "search.num_trials=2", LR)
    outcome, _ = sweep(*arguments, f"search.storage={address}", task=interrupted)
    assert outcome.exit_code == 130
    told, _, command = outcome.stdout.rpartition("\n")[0].rpartition("\n")
    assert told.endswith("Continue with, with the address of the study in the variable STUDY:")
    monkeypatch.setattr("bnlab.train.task", smooth)
    monkeypatch.setattr("bnlab.text.concealing._known", {})
    words = shlex.split(command)[3:]
    assert words[-1] == "search.storage=${oc.env:STUDY}"
    for wrong in (words, words[:-1], [*words[:-1], "search.trust=true"]):
        outcome = train(*wrong)
        assert outcome.exit_code == 2
        assert outcome.stderr.count("\n") == 1
        assert "search.storage" in outcome.stderr or "'STUDY' not found" in outcome.stderr
    monkeypatch.setenv("STUDY", address)
    outcome = train(*words)
    assert outcome.exit_code == 0, outcome.stderr
    assert files_with(tmp_path, PASSWORD) == []


def test_an_address_that_cannot_be_opened_is_told_without_its_password(secrets, train, tmp_path: Path) -> None:
    for address in (
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/x",
        f"nonsense://u:{PASSWORD}@h/x",
        f"postgresql://u:{PASSWORD}@h:port/x",
    ):
        arguments = [
            "search=random",
            "search.num_trials=1",
            LR,
            f"search.storage={address}",
            f"hydra.sweep.dir={tmp_path}/s",
        ]
        outcome = train("-m", *arguments)
        assert outcome.exit_code == 2
        assert PASSWORD not in outcome.stdout + outcome.stderr
        assert "u:***@" in outcome.stderr
        assert files_with(tmp_path, PASSWORD) == []


def test_stacks_from_python_write_interpolations(secrets, tmp_path: Path) -> None:
    config = bnlab.compose(
        ["trainer.max_epochs=1", "model.hidden=[4]", "+note=${oc.env:BNLAB_TEST_NOTE}", f"+service.token={PASSWORD}"]
    )
    (summary,) = train_stack([config], tmp_path / "stack", num_workers=1)
    assert summary["status"] == "completed"
    assert files_with(tmp_path, PASSWORD, NOTE) == []
    assert OmegaConf.load(tmp_path / "stack" / "0" / "config.yaml").note == NOTE
    assert mode(tmp_path / "stack" / "0") == "0o700"
    (again,) = train_stack([config], tmp_path / "stack", exist="skip")
    assert again == summary | again
