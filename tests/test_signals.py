"""How a process answers Ctrl-C when it has said its last line."""

import signal
import subprocess
import sys

CODE = "import os, signal; from bnlab.process.signals import exit_silently; {}; os.kill(os.getpid(), signal.SIGINT)"


def outcome_of(call: str) -> tuple[int, str]:
    outcome = subprocess.run([sys.executable, "-c", CODE.format(call)], capture_output=True, text=True, check=False)
    return outcome.returncode, outcome.stderr


def test_ctrl_c_after_the_last_line_ends_the_process_without_a_word() -> None:
    assert outcome_of("exit_silently()") == (-signal.SIGINT, "")
    assert "KeyboardInterrupt" in outcome_of("pass")[1]


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    assert outcome_of("signal.signal(signal.SIGINT, signal.SIG_IGN); exit_silently()") == (0, "")


CLEANING_UP = """
import os, signal
from bnlab.process.signals import interruptible
with interruptible():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        {}
"""


def test_an_interrupt_whose_way_out_fails_is_one_all_the_same() -> None:
    """As where it comes amid a library's context manager, which meets what is half done when it is left."""
    for clean_up in ("None._flags", "raise ValueError('half read') from AttributeError('no flags')"):
        code = [sys.executable, "-c", CLEANING_UP.format(clean_up)]
        outcome = subprocess.run(code, capture_output=True, text=True, check=False)
        assert (outcome.returncode, outcome.stderr) == (130, "Interrupted.\n")
    code = [sys.executable, "-c", CLEANING_UP.replace("os.kill(os.getpid(), signal.SIGTERM)", "pass").format("1 / 0")]
    assert "ZeroDivisionError" in subprocess.run(code, capture_output=True, text=True, check=False).stderr


SWALLOWED = """
import os, signal, threading, time, weakref
from bnlab.process.signals import {name}

start = threading.Thread.start
threading.Thread.start = lambda thread: (start(thread), time.sleep(0.1))  # as on a busy machine

class Key:
    pass

def amid_a_callback(_):
    os.kill(os.getpid(), signal.{number})
    while True:
        pass

with {name}():
    key = Key()
    reference = weakref.ref(key, amid_a_callback)
    del key
    time.sleep(10)
"""


def test_a_request_that_python_swallows_amid_a_weak_references_callback_is_made_again() -> None:
    code = [sys.executable, "-c", SWALLOWED.format(name="interruptible", number="SIGHUP")]
    outcome = subprocess.run(code, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (130, "Interrupted.\n")
    code = [sys.executable, "-c", SWALLOWED.format(name="answering_parent", number="SIGUSR2")]
    stderr = subprocess.run(code, capture_output=True, text=True, check=False).stderr
    assert stderr.count("Traceback") == 1
    assert stderr.endswith("UserInterrupt: SIGUSR2\n")
    assert "amid_a_callback" not in stderr


STARTED_IN_NONE = """
import os
os.rmdir(os.getcwd())
from bnlab.process.shared_process import leave_removed_folder
leave_removed_folder()
print(os.getcwd())
"""


def test_a_process_that_begins_in_a_removed_folder_leaves_it(tmp_path) -> None:
    (tmp_path / "gone").mkdir()
    outcome = subprocess.run(
        [sys.executable, "-c", STARTED_IN_NONE], cwd=tmp_path / "gone", capture_output=True, text=True, check=False
    )
    assert (outcome.returncode, outcome.stdout) == (0, "/\n"), outcome.stderr
