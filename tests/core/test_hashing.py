import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.core.hashing import canonical_json, digest, fraction

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict):
    assert digest(value) == digest(dict(reversed(value.items())))


@given(JSON, JSON)
def test_different_values_have_different_digests(one: object, other: object):
    assert (digest([one]) == digest([other])) == (canonical_json(one) == canonical_json(other))


def test_a_known_value():
    assert digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest({"b": 1, "a": "é"}) == digest('{"a":"é","b":1}')


@given(JSON, st.integers(1, 64))
def test_a_digest_is_hex_of_the_length_asked_for(value: object, length: int):
    short = digest(value, length=length)
    assert len(short) == length
    assert set(short) <= set(string.hexdigits.lower())
    assert digest(value).startswith(short)


def test_lone_surrogates_can_be_hashed():
    assert digest("\ud800") != digest("\udc00")


def test_what_json_cannot_say_is_refused():
    with pytest.raises(TypeError):
        digest({"a": object()})


@given(JSON, st.text())
def test_a_fraction_is_reproducible_and_below_one(value: object, salt: str):
    assert 0 <= fraction(value, salt=salt) < 1
    assert fraction(value, salt=salt) == fraction(value, salt=salt)


def test_fractions_spread_evenly_and_another_salt_deals_anew():
    first = [fraction(i, salt="a") < 0.25 for i in range(4000)]
    second = [fraction(i, salt="b") < 0.25 for i in range(4000)]
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert 900 < sum(first) < 1100
    assert 180 < both < 320
