import hashlib

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError, InputError
from llmagentos.serve import traffic
from llmagentos.serve.errors import ApiError


def test_model_ids():
    assert traffic.target("agent", "agent") == "champion"
    assert traffic.target("shop@student", "shop") == "student"
    assert traffic.target("agent@7", "agent") == 7
    for bad in ("other", "agent@", "agent@nobody", "agent@-1", "agent@1.0", "agent@²", "agent@challenger", "@7"):
        with pytest.raises(ApiError) as caught:
            traffic.target(bad, "agent")
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    with pytest.raises(ApiError) as caught:
        traffic.target(None, "agent")
    assert caught.value.status == 400


def test_header_before_metadata_before_a_new_session():
    assert traffic.caller({"x-session-id": "h"}, {"session_id": "m"}, None).session_id == "h"
    assert traffic.caller({}, {"session_id": "m"}, None).session_id == "m"
    assert traffic.caller({}, {}, None).session_id.startswith("sess-")
    assert traffic.caller({"x-user-id": "h"}, {}, "b").user_id == "h"
    assert traffic.caller({}, {}, "b").user_id == "b"
    with pytest.raises(InputError) as caught:
        traffic.caller({"x-session-id": "x" * 257}, {}, None)
    assert caught.value.field == "x-session-id"


def test_a_key_determines_the_id():
    one, keyed = traffic.interaction_id({"idempotency-key": "k"}, "t")
    assert keyed
    assert traffic.interaction_id({"idempotency-key": "k"}, "t") == (one, True)
    assert traffic.interaction_id({"idempotency-key": "k"}, "other")[0] != one
    free, keyed = traffic.interaction_id({}, "t")
    assert not keyed
    assert free != traffic.interaction_id({}, "t")[0]
    assert len(one.removeprefix("chatcmpl-")) >= 24


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_key(host: str):
    config = load_config(None, [f"serve.host='{host}'"], environment={})
    assert traffic.check_exposure(config, {}) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_anything_else_needs_one(host: str):
    config = load_config(None, [f"serve.host='{host}'"], environment={})
    with pytest.raises(ConfigError):
        traffic.check_exposure(config, {})
    key_hash = traffic.check_exposure(config, {"LLMAGENTOS_API_KEY": "k"})
    assert key_hash == hashlib.sha256(b"k").hexdigest()


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer x", "k", "Basic k", "Bearer k k"])
def test_wrong_keys(given: str | None):
    with pytest.raises(ApiError) as caught:
        traffic.check_key(hashlib.sha256(b"k").hexdigest(), given)
    assert caught.value.status == 401


def test_the_right_key():
    traffic.check_key(hashlib.sha256(b"k").hexdigest(), "bearer k")
    traffic.check_key(None, None)
