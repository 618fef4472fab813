"""Teams of 2 and 4 processes that the tests of this folder share."""

import pytest

from tests.distributed.team import Team


@pytest.fixture(scope="session")
def _teams(tmp_path_factory):
    teams = {}

    def team(size):
        if size not in teams:
            teams[size] = Team(size, tmp_path_factory.mktemp("team"))
        return teams[size]

    yield team
    for each in teams.values():
        each.stop()


@pytest.fixture
def pair(_teams):
    return _teams(2)


@pytest.fixture(params=[2, 4], ids="{}-processes".format)
def team(request, _teams):
    return _teams(request.param)


@pytest.fixture
def four(_teams):
    return _teams(4)
