from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from undertow.serve.fields import Content, Inputs, Name, Only, Stop

TEXT = {"type": "text", "text": "some"}


def taken(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [("some", "some"), ("", ""), ([TEXT], "some"), ([TEXT, {"type": "text", "text": " more"}], "some more")],
)
def test_content_is_text_or_parts_of_it(value, text):
    assert taken(Content, value) == text


OTHER_CONTENT = [
    *(None, 4, True, b"x", {}, [], ["some"], "\ud800"),
    *([{"type": "text"}], [{"type": "text", "text": 4}], [{**TEXT, "more": 1}], [{"type": "text", "text": "\udfff"}]),
    *([{"type": "image_url"}], [{"text": "some"}], [{"type": 4}]),
]


@pytest.mark.parametrize("value", OTHER_CONTENT)
def test_other_content_is_refused(value):
    with pytest.raises(ValidationError):
        taken(Content, value)


def test_stops():
    assert taken(Stop, None) == ()
    assert taken(Stop, "a") == ("a",)
    assert taken(Stop, ["a", "b"]) == ("a", "b")
    for value in ("", [""], ["a"] * 5, [4], 4, "\ud800", "a" * 257):
        with pytest.raises(ValidationError):
            taken(Stop, value)


def test_inputs():
    assert taken(Inputs, "a") == ("a",)
    assert taken(Inputs, ["a", "b"]) == ("a", "b")
    # Parts make up one text, as they do in a message.
    assert taken(Inputs, [TEXT, TEXT]) == ("somesome",)
    for value in (None, [], ["a", TEXT], [TEXT, "a"], [4], [["a"]], ["\ud800"], [{"type": "image_url"}]):
        with pytest.raises(ValidationError):
            taken(Inputs, value)


def test_names():
    assert taken(Name, "organism:aligned") == "organism:aligned"
    for value in ("x" * 1001, 4, "\ud800"):
        with pytest.raises(ValidationError):
            taken(Name, value)
    with pytest.raises(ValidationError, match="at most 1000 characters"):
        taken(Name, "x" * 1001)


def test_an_option_that_is_not_offered_takes_what_asks_for_nothing():
    kind = Annotated[Any, Only(None, 1, [], {"type": "text"})]
    for value in (None, 1, 1.0, [], {"type": "text"}):
        taken(kind, value)
    for other in (0, True, False, "", "1", [1], {}, {"type": "json_object"}):
        with pytest.raises(ValidationError):
            taken(kind, other)


def test_the_schemas_say_the_same():
    class Request(BaseModel):
        content: Content
        n: Annotated[Any, Only(None, 1)] = None

    properties = Request.model_json_schema()["properties"]
    assert properties["n"]["enum"] == [None, 1]
    assert {kind["type"] for kind in properties["content"]["anyOf"]} == {"string", "array"}
