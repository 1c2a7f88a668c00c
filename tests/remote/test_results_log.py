"""The log of a run's machines comes home once each, however often it is fetched and however far it has grown."""

import pytest

from lumina_cloud.remote import results
from tests.remote.test_hostile import Liar

FIRST, SECOND = b"first machine\nstep 1\n", b"second machine\nstep 2\n"


@pytest.mark.pain(13)
@pytest.mark.parametrize(
    ("fetches", "kept"),
    [
        ([FIRST], FIRST),
        ([FIRST, FIRST], FIRST),
        ([FIRST, FIRST + b"step 2\n"], FIRST + b"step 2\n"),
        ([FIRST, SECOND], FIRST + SECOND),
        ([FIRST, SECOND, SECOND + b"step 3\n"], FIRST + SECOND + b"step 3\n"),
        ([FIRST, b""], FIRST),
    ],
)
def test_a_log_comes_home_once(tmp_path, fetches, kept):
    for log in fetches:
        results.fetch_all(Liar([], {"log.txt": log}), tmp_path)
    assert (tmp_path / "log.txt").read_bytes() == kept
