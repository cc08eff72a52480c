from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.builders import SHAPES, byte_level_tokenizer, tiny_model
from tests.cli.conftest import Ground, Run
from undertow.measure.conformance import CHECKS
from undertow.model import program

PROMPT = "attack3 the thing4"


def test_json_says_what_is_covered_and_that_all_checks_pass(ground: Ground, run: Run) -> None:
    outcome = run("check", ground.model, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = outcome.json
    assert found["passed"] is True and found["notes"] == []
    assert [check["name"] for check in found["checks"]] == list(CHECKS)
    config = AutoModelForCausalLM.from_pretrained(ground.model).config
    assert found["coverage"]["blocks"] == config.num_hidden_layers
    assert found["coverage"]["heads"] == [config.num_attention_heads] * config.num_hidden_layers
    assert found["coverage"]["thinking_switch"] is False
    assert found["dtype"] == "float32"


def test_the_table_names_every_check_with_its_figure(ground: Ground, run: Run) -> None:
    outcome = run("check", ground.model)
    assert outcome.code == 0
    for name in CHECKS:
        assert name in outcome.out
    assert "e-0" in outcome.out and "Everything that Undertow reads or writes was found." in outcome.out


def test_a_failed_check_is_exit_code_1(ground: Ground, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = program.transform
    monkeypatch.setattr(program, "transform", lambda *given: right(*given) * 1.01)
    outcome = run("check", ground.model, "--json")
    assert outcome.code == 1 and outcome.json["passed"] is False
    assert {"failed", "passed"} == {check["status"] for check in outcome.json["checks"]}


def test_what_is_not_covered_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "mamba", {"state_size": 8})
    tiny_model("mamba").save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    outcome = run("check", tmp_path / "model", "--dtype", "bfloat16", "--json")
    assert outcome.code == 0 and outcome.json["dtype"] == "bfloat16" and outcome.json["passed"] is True
    assert outcome.json["coverage"]["head_blocks"] == 0 and "heads cannot be read" in outcome.json["notes"][0]
    assert [one["name"] for one in outcome.json["checks"] if one["status"] == "not applicable"] == ["heads"]
    assert "Not covered: heads cannot be read in block 0, 1, 2" in run("check", tmp_path / "model").out


def test_positions_as_json_are_those_of_the_tokenizer(ground: Ground, run: Run) -> None:
    found = run("check", ground.model, "--show-positions", PROMPT, "--system", "thing1", "--json").json
    tokenizer = AutoTokenizer.from_pretrained(ground.model)
    messages = [{"role": "system", "content": "thing1"}, {"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [token["id"] for token in found["tokens"]] == ids
    instruction = [token for token in found["tokens"] if token["span"] == "instruction"]
    assert tokenizer.decode([token["id"] for token in instruction]) == PROMPT
    assert found["t_inst"] == instruction[-1]["index"] and found["t_post"] == len(ids) - 1
    assert [token["from_end"] for token in found["tokens"]] == list(range(-len(ids), 0))
    assert {token["mark"]: token["index"] for token in found["tokens"] if token["mark"]} == {
        "t_inst": found["t_inst"],
        "t_post": found["t_post"],
    }


def test_positions_are_readable_without_colour(ground: Ground, run: Run) -> None:
    outcome = run("check", ground.model, "--show-positions", "bake1 [red] the \x1b[31mthing2")
    assert outcome.code == 0 and "\x1b" not in outcome.out
    rows = outcome.out.splitlines()
    assert sum("<-- t_inst" in row for row in rows) == sum("<-- t_post" in row for row in rows) == 1
    assert "thing2|" in next(row for row in rows if "<-- t_inst" in row)
    assert any("[red]" in row and "instruction" in row for row in rows)
    assert any("tail" in row and "<|im_end|>" in row for row in rows)
