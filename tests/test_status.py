"""The words for how a run stands: the same in Python, in JSON and on screen."""

import json
import pickle

import pytest

from bnlab.status import Status


@pytest.mark.parametrize("status", Status)
def test_a_status_is_its_word_and_has_a_sentence(status: Status) -> None:
    assert json.loads(json.dumps({status: status})) == {str(status): str(status)}
    assert f"{status}" == status.value == status.name.lower()
    assert repr({"status": status}) == f"{{'status': '{status}'}}"
    assert pickle.loads(pickle.dumps(status)) is Status(str(status)) is status
    assert status.meaning
    assert not status.meaning.endswith(".")


def test_what_a_status_counts_as_grows_from_ranked_to_that_of_a_run() -> None:
    ranked, with_results, final, of_a_run = (
        {str(status) for status in Status if getattr(status, name)}
        for name in ("is_ranked", "has_results", "is_final", "is_of_a_run")
    )
    assert ranked == {"completed", "diverged"}
    assert with_results - ranked == {"pruned"}
    assert final - with_results == {"failed"}
    assert of_a_run - final == {"interrupted"}
