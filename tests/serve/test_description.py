from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.asked import chat_body
from tests.serve.served import client, serving, settings_with
from undertow.serve.metrics import Metrics

KEY = "0f2c9a55d1e84b7c"
EXAMPLES = 12

# What no schema can say: that the last message must be the user's, hold a word and fit into the model.
CONFIGURATION = """
[[operations]]
include-path = "/v1/chat/completions"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "429"]
"""


@pytest.fixture(scope="module")
def keyed(guard):
    policy = {"allowed": ["steer"]}
    limits = {"reply_tokens": 16, "inputs": 8}
    settings = settings_with(name="taught", api_key=KEY, policy=policy, limits=limits)
    with serving(guard, settings, metrics=Metrics()) as server:
        yield server


@pytest.fixture(scope="module")
def description(keyed):
    with client(keyed, headers={"authorization": f"Bearer {KEY}"}) as http:
        return http.get("/openapi.json").json()


@pytest.mark.slow
def test_schemathesis_finds_no_error_and_nothing_undeclared(keyed, tmp_path: Path):
    pytest.importorskip("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = [
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(EXAMPLES),
        "--seed",
        "1",
        "--checks",
        "all",
    ]
    ran = subprocess.run(
        [
            *command,
            f"{keyed.url}/openapi.json",
            "-H",
            f"Authorization: Bearer {KEY}",
            *options,
            "--continue-on-failure",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
    assert "Tested: 7" in ran.stdout


def test_it_names_this_servers_limits(description):
    schemas = description["components"]["schemas"]
    chat = schemas["ChatRequest"]["properties"]
    assert chat["model"] == {"enum": ["taught"]}
    assert chat["max_tokens"]["anyOf"][0]["maximum"] == 16
    assert schemas["PolicyRequest"]["properties"]["on_harmful"] == {"enum": ["refuse", "steer", None]}
    assert schemas["PolicyRequest"]["properties"]["on_over_refusal"] == {"enum": ["keep", None]}
    kinds = schemas["ModerationRequest"]["properties"]["input"]["anyOf"]
    assert [kind["maxItems"] for kind in kinds if kind.get("items") == {"type": "string"}] == [8]


def test_it_lists_what_is_served(description):
    assert set(description["paths"]) == {
        "/v1/chat/completions",
        "/v1/moderations",
        "/v1/models",
        "/v1/models/{id}",
        "/healthz",
        "/readyz",
        "/metrics",
    }


def test_the_key_is_asked_for_where_it_is_needed(description, guard):
    for path, methods in description["paths"].items():
        for operation in methods.values():
            is_open = path in ("/healthz", "/readyz")
            assert ("security" in operation) is not is_open
            assert ("401" in operation["responses"]) is not is_open
            assert "422" not in operation["responses"]
    with serving(guard, settings_with()) as server, client(server) as http:
        found = http.get("/openapi.json").json()
    assert "securitySchemes" not in found["components"]
    assert not [1 for path in found["paths"].values() for one in path.values() if "security" in one]


def test_options_that_are_not_offered_are_described_as_such(description):
    chat = description["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False
    assert chat["properties"]["n"]["enum"] == [None, 1]
    assert chat["properties"]["tools"]["enum"] == [None, []]


def test_there_are_no_pages_that_load_from_elsewhere(keyed):
    with client(keyed, headers={"authorization": f"Bearer {KEY}"}) as http:
        for path in ("/docs", "/redoc"):
            assert http.get(path).status_code == 404
        assert http.post("/v1/chat/completions", json=chat_body("bake1", max_tokens=17)).status_code == 400
