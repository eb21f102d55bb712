"""Several clients at once: small runs of `scripts/load/crowd.py`."""

import argparse

import pytest

from scripts.load import crowd
from tests.api.conftest import Server
from tests.api.serving import served


@pytest.mark.parametrize("at_once", [False, True])
def test_every_client_of_a_crowd_gets_its_pictures_in_a_fair_order(
    server: Server, at_once: bool
) -> None:
    options = argparse.Namespace(clients=4, jobs=6, at_once=at_once)
    body = {"steps": 2, "width": 64, "height": 64}
    with served(server) as url:
        outcome = crowd.run_clients(int(url.rpartition(":")[2]), body, options)
    jobs = server.client.get("/api/v1/jobs?limit=1000").json()
    assert outcome.faults == []
    assert crowd.unanswered(outcome, options) == []
    assert len(jobs) == 24
    assert crowd.out_of_order(jobs) == []


def test_a_job_that_overtakes_one_is_found() -> None:
    newest_first = [{"id": "b", "started_at": 1.0}, {"id": "a", "started_at": 2.0}]
    assert crowd.out_of_order(newest_first) != []
    assert crowd.out_of_order(newest_first[::-1]) == []
