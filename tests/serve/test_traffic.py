import contextvars
import hashlib

import pytest

from llmagentos.config import Config, load_config
from llmagentos.core.errors import ConfigError, InputError
from llmagentos.serve import keys, traffic
from llmagentos.serve.errors import ApiError
from llmagentos.serve.keys import Key
from llmagentos.storage.layout import Home


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
    one, key = traffic.interaction_id({"idempotency-key": "k"}, "t")
    assert traffic.interaction_id({"idempotency-key": "k"}, "t") == (one, key) == (one, "k")
    assert traffic.interaction_id({"idempotency-key": "k"}, "other")[0] != one
    free, key = traffic.interaction_id({}, "t")
    assert key is None
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


def test_a_stored_key_is_enough_beyond_loopback_until_it_is_revoked(config: Config, home: Home):
    config = config.model_copy(update={"serve": config.serve.model_copy(update={"host": "0.0.0.0"})})
    keys.add(home, "shop", "chat")
    assert traffic.check_exposure(config, {}) is None
    keys.revoke(home, "shop")
    with pytest.raises(ConfigError, match="no key was added"):
        traffic.check_exposure(config, {})


def test_the_tenant_is_the_keys():
    assert traffic.caller({}, {}, None).tenant == "default"

    def as_acme() -> str:
        traffic.begin(traffic.Visit("/", Key(name="k", role="chat", tenant="acme")))
        return traffic.caller({"x-tenant": "other"}, {"tenant": "other"}, None).tenant

    assert contextvars.copy_context().run(as_acme) == "acme"
    assert traffic.tenant() == "default"


def test_the_ingress_determines_the_id_of_a_request_without_a_key():
    given = {traffic.INGRESS_REQUEST: "r"}
    one, key = traffic.interaction_id(given, "t")
    assert key is None
    assert traffic.interaction_id(given, "t")[0] == one
    assert traffic.interaction_id(given, "other")[0] != one
    assert traffic.interaction_id({"idempotency-key": "r"}, "t")[0] != one
    assert traffic.interaction_id({**given, "idempotency-key": "k"}, "t") == traffic.interaction_id({"idempotency-key": "k"}, "t")


@pytest.mark.parametrize(
    "kind",
    ["", "application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json", "application/x-ndjson",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_a_body_may_be_called_json_or_nothing(kind: str):
    traffic.check_kind({"content-type": kind})
    traffic.check_kind({})


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "json", "?"])
def test_a_body_that_is_called_something_else_is_refused(kind: str):
    with pytest.raises(ApiError) as caught:
        traffic.check_kind({"content-type": kind})
    assert (caught.value.status, caught.value.param) == (415, "content-type")
