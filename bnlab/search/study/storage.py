"""The storage of a study: a file in the sweep's folder, or a database that several machines share."""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from bnlab.errors import UserError, user_errors
from bnlab.search.study.changes import Settings, changes
from bnlab.search.study.journal import Journal
from bnlab.text.concealing import conceal_address

__all__ = [
    "close",
    "declare_planned",
    "join_or_create",
    "open_storage",
    "release",
    "study_id",
    "trial_id",
]

_PLANNED = "planned"
_WAIT_S = 60.0
_ATTEMPTS = 10


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """Open Optuna's storage at `url` (a SQLAlchemy address), or in the file `journal` if `url` is None.

    Raises:
        UserError: it cannot be reached, or its driver is not installed.
    """
    if url is None:
        return JournalStorage(Journal(journal))
    with user_errors(f"`search.storage`: {conceal_address(url)} cannot be opened: "):
        if url.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)  # use the driver that is installed
        for _ in range(_ATTEMPTS):
            try:
                return _database(url)
            except SQLAlchemyError as error:
                if not _is_made_by_another(error):
                    raise
                time.sleep(0.5)
        return _database(url)


def _is_made_by_another(error: SQLAlchemyError) -> bool:
    """Whether the error means that another sweep is creating the tables and their first rows right now."""
    signs = ("already exists", "duplicate", "locked")
    return isinstance(error, IntegrityError) or any(sign in str(error).lower() for sign in signs)


def _database(url: str) -> RDBStorage:
    if not url.startswith("sqlite:"):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": {"timeout": _WAIT_S}})
    _lock_from_the_start(storage.engine)
    return storage


def _lock_from_the_start(engine: Engine) -> None:
    """Make every transaction of SQLite take the lock before it reads.

    SQLite lacks SELECT ... FOR UPDATE, by which trials are taken in other databases: two processes could both read that
    a trial waits, and both take it. The driver itself begins a transaction only at the first write.
    """
    event.listen(engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # drop the earlier connections


def release(storage: BaseStorage) -> None:
    """Return this thread's connection to the pool, if it has one."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()


def close(storage: BaseStorage) -> None:
    """Close all connections."""
    release(storage)
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def join_or_create(
    storage: BaseStorage,
    name: str,
    minimize: bool,
    definition: Mapping[str, Any],
    settings: Settings,
    resumes: bool = False,
    must_exist: bool = False,
) -> tuple[optuna.Study, bool]:
    """Return the study `name`, and whether this call created it.

    Whoever creates it plans its trials; others wait for the plan. A sweep that `resumes` plans the missing trials, and
    may ask for more trials than before.

    Args:
        definition: what is searched, which must agree with the study.
        settings: the settings of the jobs, which must agree, too.
        must_exist: refuse to create it.
    Raises:
        UserError: the study searches something else, or it must exist and does not.
    """
    if must_exist and name not in [study.study_name for study in storage.get_all_studies()]:
        raise UserError(
            f"The study {name!r} of this sweep is missing: bring it back, or give its address by "
            "search.storage=ADDRESS."
        )
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize" if minimize else "maximize", load_if_exists=False
        )
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
    else:
        study.set_user_attr("settings", settings)
        study.set_user_attr("definition", dict(definition))
        return study, True
    if resumes:
        study.set_user_attr("definition", dict(definition))
        return study, False
    deadline = time.monotonic() + _WAIT_S
    while not study.user_attrs.get(_PLANNED):
        if time.monotonic() > deadline:
            raise UserError(
                f"The study {name!r} has no plan yet: the sweep that made it ended early. Continue that one with "
                "search.resume, or choose another search.study."
            )
        time.sleep(0.2)
    stored = study.user_attrs["definition"]
    for key in dict.fromkeys([*stored, *definition]):
        value = definition.get(key)
        if stored.get(key) != value:
            raise UserError(
                f"The study {name!r} has {key} {stored.get(key)}, this sweep has {value}: give all sweeps "
                "that share a study the same, or choose another search.study."
            )
    differing = changes(study.user_attrs.get("settings", {}), settings)
    if differing:
        raise UserError(
            f"The study {name!r} has other settings: {'; '.join(differing[:3])}. Give all sweeps that share a "
            "study the same, or choose another search.study."
        )
    return study, False


def declare_planned(study: optuna.Study) -> None:
    if not study.user_attrs.get(_PLANNED):
        study.set_user_attr(_PLANNED, True)


def study_id(storage: BaseStorage, name: str) -> int:
    return storage.get_study_id_from_name(name)


def trial_id(storage: BaseStorage, study: int, number: int) -> int:
    return storage.get_trial_id_from_study_id_trial_number(study, number)
