from __future__ import annotations

from tests.serve.asked import error_of
from tests.serve.served import Served, client, serving, settings_with


def test_the_model_is_listed_with_its_guard(served: Served, guard):
    with client(served) as http:
        listed = http.get("/v1/models").json()
        one = http.get("/v1/models/taught").json()
    assert listed["object"] == "list"
    assert listed["data"] == [one]
    assert (one["id"], one["object"], one["owned_by"]) == ("taught", "model", "undertow")
    about = one["undertow"]
    assert about["fingerprint"] == guard.fingerprint
    assert about["rule"] == guard.rule
    assert about["threshold"] == guard.threshold
    assert about["states"] == list(guard.states)
    assert guard("attack1 the thing1").quadrant in about["quadrants"]
    assert about["policy"]["allowed"]["on_harmful"] == ["refuse", "steer", "flag"]
    assert about["warnings"] == [*guard.warnings, *guard.mismatches]


def test_a_guard_of_one_belief_has_two_quadrants(talkative):
    with serving(talkative, settings_with(name="a/b")) as server, client(server) as http:
        about = http.get("/v1/models/a%2Fb").json()["undertow"]
        assert http.get("/v1/models/a/b").status_code == 200
    assert about["quadrants"] == ["harmful", "harmless"]


def test_another_model_is_not_found(served: Served):
    with client(served) as http:
        response = http.get("/v1/models/other")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
