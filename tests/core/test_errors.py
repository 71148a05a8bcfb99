import re

import pytest

from llmagentos.core import errors
from llmagentos.core.errors import ConflictError, InputError, LeaseLostError, LLMAgentOSError

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_the_drawing_shows_every_error_where_it_hangs():
    lines = (errors.__doc__ or "").splitlines()
    drawn = [(len(m[1]), m[2]) for line in lines if (m := re.match(r"([ │├└─]*)(\w+Error)\b", line))]
    assert {name for _, name in drawn} == {kind.__name__ for kind in TREE}
    parents: list[tuple[int, str]] = []
    for depth, name in drawn:
        parents = [p for p in parents if p[0] < depth]
        kind = getattr(errors, name)
        assert kind.__base__.__name__ == (parents[-1][1] if parents else "Exception")
        parents.append((depth, name))


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_says_what_and_then_what_to_do(kind: type[LLMAgentOSError]):
    error = kind("port 80 is taken.", hint="Choose another.")
    assert (error.message, error.hint, str(error)) == (
        "port 80 is taken.",
        "Choose another.",
        "port 80 is taken. Choose another.",
    )
    assert str(kind("port 80 is taken.")) == "port 80 is taken."
    assert error.code


def test_an_input_error_knows_its_place():
    error = InputError("must be text", field="messages.0.role", line=7)
    assert (error.field, error.line, error.code) == ("messages.0.role", 7, "invalid_request")


def test_a_lost_lease_is_a_conflict_with_a_code_of_its_own():
    assert isinstance(LeaseLostError("gone"), ConflictError)
    assert LeaseLostError("gone").code == "lease_lost"
    assert ConflictError("x", code="no_previous_version").code == "no_previous_version"
