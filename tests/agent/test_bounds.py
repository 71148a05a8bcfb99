import pytest

from llmagentos.agent.bounds import LARGEST, bounded
from llmagentos.core.errors import InputError

LONG = {"type": "array", "minItems": LARGEST, "items": {}}
HUGE = {"type": "array", "minItems": 100_000_000, "items": {}}


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        (HUGE, "minItems"),
        ({"$defs": {"a": HUGE}, "$ref": "#/$defs/a"}, "minItems"),
        ({"$ref": "#/const", "const": HUGE}, "minItems"),
        ({"properties": {"const": {"anyOf": [{}, {"prefixItems": [{"items": LONG}]}]}}}, "minItems"),
        ({"anyOf": [{"type": "array", "maxItems": LARGEST // 3}] * 4}, "maxItems"),
        ({"minItems": -100, "items": LONG}, "minItems"),
        ({"properties": {f"p{k}": {"type": "string"} for k in range(3000)}}, "type"),
        ({"enum": list(range(LARGEST))}, "enum"),
        ({"const": "x" * 1_000_000}, "const"),
        ({"const": {"description": "x" * 1_000_000}}, "description"),
        ({"enum": ["x" * 5000] * 5}, "enum"),
        ({"pattern": "x" * 1_000_000}, "pattern"),
        ({"properties": {"a" * 1_000_000: {}}}, "a" * 64),
    ],
)
def test_a_schema_that_is_too_large_names_what_makes_it_so(schema: dict, keyword: str):
    with pytest.raises(InputError, match=f"^response_format: .*'{keyword}'") as caught:
        bounded([schema], "response_format")
    assert caught.value.field == "response_format"


def test_schemas_are_measured_together():
    half = {"enum": list(range(LARGEST // 2))}
    assert bounded([half], "tools") == [half]
    with pytest.raises(InputError, match=r"^tools: "):
        bounded([half, half], "tools")


def test_what_cannot_bind_is_left_out():
    schema = {"maxItems": LARGEST + 1, "items": {"maxItems": 10**9, "anyOf": [{"maxItems": 10**9}, {"maxItems": 7}]}}
    assert bounded([schema], "tools") == [{"items": {"anyOf": [{}, {"maxItems": 7}]}}]
    assert schema["maxItems"] == LARGEST + 1


def test_what_is_said_about_a_schema_may_be_long():
    told = {"title": "x" * 10**6, "description": "x" * 10**6, "$comment": "x" * 10**6, "examples": ["x" * 10**6]}
    given = {"properties": {"description": told | {"type": "string"}}, "const": "x" * 1000}
    assert bounded([given], "tools") == [given]


def test_a_usual_schema_stays_as_it_is():
    given = {"const": {"maxItems": LARGEST // 2}, "enum": [{"a": [1, None]}], "minLength": 10**6, "properties": {"maxItems": {}}}
    assert bounded([given], "tools") == [given]
