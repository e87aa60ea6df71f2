"""How a process answers Ctrl-C when it has said its last line."""

import signal
import subprocess
import sys

CODE = "import os, signal; from bnlab.signals import end_without_words; {}; os.kill(os.getpid(), signal.SIGINT)"


def outcome_of(call: str) -> tuple[int, str]:
    outcome = subprocess.run([sys.executable, "-c", CODE.format(call)], capture_output=True, text=True, check=False)
    return outcome.returncode, outcome.stderr


def test_ctrl_c_after_the_last_line_ends_the_process_without_a_word() -> None:
    assert outcome_of("end_without_words()") == (-signal.SIGINT, "")
    assert "KeyboardInterrupt" in outcome_of("pass")[1]


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    assert outcome_of("signal.signal(signal.SIGINT, signal.SIG_IGN); end_without_words()") == (0, "")
