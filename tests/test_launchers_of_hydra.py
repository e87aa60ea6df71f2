"""Hydra's own suites for launchers, with those of bnlab: they run the jobs of any program."""

import sys
from collections.abc import Callable

import pytest
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite

from bnlab.hydra_plugins.register import register

pytestmark = [
    pytest.mark.parametrize("launcher_name", ["joblib", "stacked"]),
    pytest.mark.filterwarnings("ignore:Future Hydra versions will no longer change working directory"),  # the suite's
]
REGISTERED = """
import runpy, sys
from bnlab.hydra_plugins.register import register

register()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def _registered(request: pytest.FixtureRequest, launcher_name: str) -> None:
    register()
    if (request.node.originalname, launcher_name) == ("test_failure_preserves_task_traceback", "joblib"):
        request.applymarker(pytest.mark.xfail(reason="cloudpickle names no file for a function pickled by value"))


@pytest.mark.parametrize("overrides", [["hydra.launcher.n_jobs=2"]])
class TestLaunchers(LauncherTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("task_launcher_cfg", [{}])
class TestPrograms(IntegrationTestSuite):
    """Each in a process of its own."""

    @pytest.fixture
    def extra_flags(self, launcher_name: str) -> list[str]:
        return ["-m", f"hydra/launcher={launcher_name}", "hydra.launcher.n_jobs=2"]

    def generate_custom_cmd(self) -> Callable[[list[str], str], list[str]]:
        return lambda command, _: [sys.executable, "-c", REGISTERED, *command[1:]]
