from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.measure.classifiers import save_classifier
from undertow.errors import ModelError
from undertow.measure.classifier_judge import ClassifierJudge, EndpointJudge, cohens_kappa, judge_named
from undertow.measure.judge import JudgeError, RefusalJudge, SubstringJudge
from undertow.measure.text_classifier import TextClassifier

REPLIES = [
    "I cannot help with the smoke alarm.",
    "Sure, the bank is old.",
    "<think>I cannot explain that, can I?</think>Sure, the bank is old.",
    "<think>I wonder whether",
    "",
]


def test_a_classifier_judges_the_visible_reply(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["NORMAL", "REJECTION"], seed=3)
    judge = judge_named(f"classifier:{folder}")
    assert isinstance(judge, ClassifierJudge) and isinstance(judge, RefusalJudge)
    assert judge.name == f"classifier:{folder}#REJECTION"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = [
            int(model.eval()(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].argmax()) == 1
            for text in REPLIES[:2]
        ]
    found = judge.refused(REPLIES)
    assert found == [*expected, expected[1], False, True]
    # The other label says the opposite of every reply that the classifier sees.
    other = judge_named(f"classifier:{folder}#normal")
    assert other.refused(REPLIES) == [not expected[0], not expected[1], not expected[1], False, True]
    assert ClassifierJudge(judge.classifier, empty_is_refusal=False).refused([""]) == [False]
    assert judge.refused([]) == []


def test_even_odds_are_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odds = {"one": -0.01, "two": 0.0, "three": 0.01}
    monkeypatch.setattr(TextClassifier, "scores", lambda self, texts: np.array([odds[text] for text in texts]))
    judge = judge_named(f"classifier:{save_classifier(tmp_path, ['refusal', 'other'])}")
    assert judge.refused(["two", "one", "three", "one"]) == [True, False, True, False]


def test_a_classifier_of_harm_is_no_judge_of_refusals(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="safe, unsafe"):
        judge_named(f"classifier:{save_classifier(tmp_path, ['safe', 'unsafe'])}")


class Server(BaseHTTPRequestHandler):
    """Speaks the chat-completions format; "cannot" in the user's message is a refusal."""

    seen: list[dict[str, Any]]
    answers: dict[bool, str]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append({"path": self.path, **request})
        answer = type(self).answers["cannot" in request["messages"][-1]["content"]]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice]}
        if answer == "fail":
            body = {"error": {"message": "The model is not served here.", "type": "not_found"}}
        sent = json.dumps(body).encode()
        self.send_response(404 if answer == "fail" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    pytest.importorskip("openai")

    class Fresh(Server):
        seen: list[dict[str, Any]] = []  # noqa: RUF012
        answers = {True: "refused", False: "<think>Hm.</think> Answered."}  # noqa: RUF012

    with ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1", Fresh
        running.shutdown()
        thread.join()


def test_an_endpoint_is_asked_once_for_each_distinct_reply(server: tuple[str, type[Server]]) -> None:
    url, handler = server
    judge = judge_named(f"endpoint:{url}#org/judge")
    assert isinstance(judge, EndpointJudge) and isinstance(judge, RefusalJudge)
    assert judge.name == f"endpoint:{url}#org/judge"
    assert judge.refused([*REPLIES, REPLIES[0]]) == [True, False, False, False, True, True]
    assert len(handler.seen) == 2
    for request in handler.seen:
        assert request["path"] == "/v1/chat/completions"
        assert request["model"] == "org/judge" and request["temperature"] == 0
        assert [message["role"] for message in request["messages"]] == ["system", "user"]
        assert "<think>" not in request["messages"][1]["content"]
    assert any(REPLIES[0] in request["messages"][1]["content"] for request in handler.seen)
    assert judge.refused([""]) == [True] and len(handler.seen) == 2


@pytest.mark.parametrize("answer", ["refused or answered", "The reply refused the request.", "not refused", "", "yes"])
def test_any_other_answer_is_an_error_that_names_it(server: tuple[str, type[Server]], answer: str) -> None:
    url, handler = server
    handler.answers = {True: answer, False: answer}
    with pytest.raises(JudgeError, match=f"answered '{answer}', neither"):
        EndpointJudge(url, "judge").refused(["Sure."])


def test_an_endpoint_that_fails_is_an_error(server: tuple[str, type[Server]]) -> None:
    url, handler = server
    handler.answers = {True: "fail", False: "fail"}
    with pytest.raises(JudgeError, match=r"cannot be asked: .*not served here"):
        EndpointJudge(url, "judge").refused(["Sure."])


def test_without_the_client_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(JudgeError, match=r"undertow\[endpoint\]"):
        EndpointJudge("http://127.0.0.1:9/v1", "judge").refused(["Sure."])


def test_judges_are_named_on_the_command_line() -> None:
    assert judge_named("substring") == SubstringJudge()
    judge = judge_named("endpoint:https://host:8000/v1#org/name#2")
    assert judge == EndpointJudge("https://host:8000/v1#org/name", "2")


@pytest.mark.parametrize(
    "text",
    ["", "substring:x", "classifier", "classifier:", "endpoint:http://x/v1", "endpoint:x#m", "endpoint:#m", "gpt"],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(JudgeError, match="substring, classifier:ID"):
        judge_named(text)


def test_kappa_is_agreement_beyond_chance() -> None:
    first = [True, True, True, False, False, False, False, False, True, False]
    second = [True, True, False, False, False, False, True, False, True, False]
    # By hand: agree on 8 of 10; by chance 0.4 x 0.4 + 0.6 x 0.6 = 0.52.
    assert cohens_kappa(first, second) == pytest.approx((0.8 - 0.52) / (1 - 0.52))
    assert cohens_kappa(first, first) == pytest.approx(1.0)
    assert cohens_kappa([True, True], [True, False]) is None
    with pytest.raises(JudgeError):
        cohens_kappa([True], [])
    with pytest.raises(JudgeError):
        cohens_kappa([], [])
