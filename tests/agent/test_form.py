"""A grammar is judged by the answers it lets through: as ids of a tokenizer, up to where they are complete."""

import pytest

from llmagentos.agent.form import Form, grammar
from llmagentos.core.errors import InputError
from llmagentos.engines.vocabulary import vocabulary_of
from llmagentos.models.chat import CALL, HERMES, Renderer, parse_answer

PRICE = {"name": "price", "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}}
PAY = {"name": "pay", "parameters": {"properties": {"sum": {"type": "integer"}}, "additionalProperties": False}}
CLOCK = {"name": "clock"}
TOOLS = [{"type": "function", "function": f} for f in (PRICE, PAY, CLOCK)]
STRICT = [{"type": "function", "function": PRICE | {"strict": True}}]
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


def allows(renderer: Renderer, form: Form, tools: list | None, text: str) -> bool:
    """Whether `text` is a whole answer of the form, every token of it allowed."""
    import torch

    matcher = vocabulary_of(renderer).matcher(grammar(form, tools, renderer))
    for token in [*renderer.tokenizer.encode(text, add_special_tokens=False).ids, renderer.eos_id]:
        scores = torch.zeros(renderer.vocab_size)
        matcher.mask(scores)
        if scores[token] < 0:
            return False
        matcher.advance(token)
    return matcher.failure is None


def hermes_call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_free_text_needs_no_grammar(own: Renderer):
    assert grammar(Form(), None, own) is None
    assert grammar(Form(), TOOLS, own) is None
    assert grammar(Form(calls="none"), STRICT, own) is None


@pytest.mark.parametrize(
    ("text", "right"),
    [('{"x":1}', True), ('{"x": 12}', True), ('{"x": "a"}', False), ("{}", False), ('{"x": 1', False), ("x", False), ("", False)],
)
def test_content_follows_its_schema(own: Renderer, text: str, right: bool):
    assert allows(own, Form(schema=POINT), None, text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (f'{CALL}price{{"item":"lamp"}}', True),
        (f'{CALL}pay{{"sum":3}}{CALL}clock{{}}', True),
        (f"{CALL}pay{{}}", True),
        (f'{CALL}pay{{"sum":"3"}}', False),
        (f"{CALL}price{{}}", False),
        (f'{CALL}clock{{"a":1}}', False),
        (f"{CALL}steal{{}}", False),
        ("Hello", False),
        ("", False),
    ],
)
def test_a_call_is_required(own: Renderer, text: str, right: bool):
    assert allows(own, Form(calls="required"), TOOLS, text) is right
    if right:
        assert parse_answer(text, CALL)["tool_calls"]


def test_one_function_is_required(own: Renderer):
    form = Form(calls="required", only="clock")
    assert allows(own, form, TOOLS, f"{CALL}clock{{}}")
    assert not allows(own, form, TOOLS, f"{CALL}clock{{}}{CALL}clock{{}}")
    assert not allows(own, form, TOOLS, f"{CALL}pay{{}}")
    assert not allows(own, Form(calls="required", parallel=False), TOOLS, f"{CALL}pay{{}}{CALL}pay{{}}")


def test_a_strict_tool_leaves_text_free_and_holds_calls(own: Renderer):
    for text in ("", "Hello \U0001f600\n", f'Let me see. {CALL}price{{"item":"lamp"}}', f'{CALL}price{{"item":""}}'):
        assert allows(own, Form(), STRICT, text)
    assert not allows(own, Form(), STRICT, f"{CALL}price{{}}")
    assert not allows(own, Form(), STRICT, f'{CALL}price{{"item":"a"}} bye')


def test_json_or_a_call(own: Renderer):
    form = Form(schema=POINT)
    assert allows(own, form, TOOLS, '{"x": 1}')
    assert allows(own, form, TOOLS, f"{CALL}clock{{}}")
    assert not allows(own, form, TOOLS, "Hello")


def test_calls_in_the_notation_of_hermes(hermes: Renderer):
    one, two = hermes_call("price", '{"item": "lamp"}'), hermes_call("clock", "{}")
    required = Form(calls="required")
    assert allows(hermes, required, TOOLS, one)
    assert allows(hermes, required, TOOLS, f"{one}\n{two}")
    assert not allows(hermes, required, TOOLS, hermes_call("price", '{"item": 3}'))
    assert not allows(hermes, required, TOOLS, "Hello")
    assert [c["function"]["name"] for c in parse_answer(f"{one}\n{two}", HERMES[0])["tool_calls"]] == ["price", "clock"]
    assert allows(hermes, Form(), STRICT, "Hello <b>")
    assert allows(hermes, Form(), STRICT, f"Hello\n{one}")
    assert not allows(hermes, Form(), STRICT, "Hello\n" + hermes_call("price", "{}"))


def test_what_cannot_be_compiled_names_what_asked_for_it(own: Renderer):
    bad = {"type": "banana"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": bad}}}}]
    for form, offered, field in [
        (Form(schema=bad), None, "response_format"),
        (Form(schema=bad), TOOLS, "response_format"),
        (Form(schema=POINT), tools, "tools"),
        (Form(calls="required"), tools, "tools"),
        (Form(schema={"not": {}}, strict=True), None, "response_format"),
    ]:
        with pytest.raises(InputError) as caught:
            allows(own, form, offered, "x")
        assert caught.value.field == field
    assert allows(own, Form(schema={"not": {}, "type": "null"}), None, "null")


def test_a_schema_that_would_take_all_memory_is_refused_before_it_is_compiled(own: Renderer):
    huge = {"type": "object", "properties": {"a": {"type": "array", "minItems": 10**8, "items": {}}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": huge, "strict": True}}]
    forms = (Form(schema=huge), Form(), Form(calls="required"), Form(schema=POINT))
    for form, offered, field in zip(forms, (None, tools, tools, tools), ("response_format", *["tools"] * 3), strict=True):
        with pytest.raises(InputError, match="minItems") as caught:
            grammar(form, offered, own)
        assert caught.value.field == field
    far = {"type": "array", "maxItems": 10**8, "items": {"type": "null"}}
    assert "maxItems" not in grammar(Form(schema=far), None, own).text
    assert allows(own, Form(schema=far), None, "[null, null]")


def test_arguments_are_an_object(own: Renderer):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]
    with pytest.raises(InputError, match="'array'"):
        grammar(Form(calls="required"), tools, own)


def test_names_and_schemas_are_text_and_not_grammar(own: Renderer):
    name = 'a"b\\c é'
    tools = [{"type": "function", "function": {"name": name, "parameters": {"properties": {'"|': {"type": "null"}}}}}]
    assert allows(own, Form(calls="required"), tools, f"{CALL}{name}{{}}")
    assert not allows(own, Form(calls="required"), tools, f"{CALL}a{{}}")
