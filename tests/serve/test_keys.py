import hashlib
import threading
from pathlib import Path

import pytest

from llmagentos.core.errors import ConfigError, ConflictError, NotFoundError
from llmagentos.serve import keys
from llmagentos.serve.errors import ApiError
from llmagentos.serve.keys import ANYONE, Key, Keyring
from llmagentos.storage.layout import Home


def test_only_a_salted_hash_is_kept_and_only_its_user_may_read_it(home: Home):
    one, secret = keys.add(home, "shop", "chat", tenant="acme", per_minute=60, tokens_per_day=1000)
    two, other = keys.add(home, "desk", "admin")
    assert keys.stored(home) == [one, two]
    assert one.hash == hashlib.sha256(bytes.fromhex(one.salt) + secret.encode()).hexdigest()
    assert (one.salt != two.salt, secret != other, len(one.salt)) == (True, True, 32)
    everything = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert secret.encode() not in everything
    assert {p.name: p.stat().st_mode & 0o777 for p in home.keys.iterdir()} == {"keys.json": 0o600, "lock": 0o600}


def test_a_name_is_taken_until_it_is_revoked(home: Home):
    keys.add(home, "shop", "chat")
    with pytest.raises(ConflictError) as caught:
        keys.add(home, "shop", "admin")
    assert caught.value.code == "key_exists"
    gone = keys.revoke(home, "shop")
    assert (gone.revoked, gone.hash, gone.salt) == (True, "", "")
    for name in ("shop", "nobody"):
        with pytest.raises(NotFoundError):
            keys.revoke(home, name)
    again, _ = keys.add(home, "shop", "admin")
    assert keys.stored(home) == [again]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a" * 65},
        {"name": "../x"},
        {"tenant": "a:b"},
        {"tenant": ""},
        {"role": "root"},
        {"per_minute": 0},
        {"tokens_per_day": -1},
    ],
)
def test_a_key_that_cannot_be(home: Home, wrong: dict):
    with pytest.raises(ConfigError):
        keys.add(home, **({"name": "shop", "role": "chat"} | wrong))
    assert keys.stored(home) == []


def test_a_tenant_is_known_after_its_keys_name_is_anothers(home: Home):
    keys.add(home, "shop", "chat", tenant="acme")
    keys.revoke(home, "shop")
    keys.add(home, "shop", "chat")
    assert Keyring(home, None, loopback=True).tenants == {"default", "acme"}
    assert keys.revoke(home, "shop").tenant == "default"


def test_adding_at_once_loses_none(home: Home):
    threads = [threading.Thread(target=keys.add, args=(home, f"k{n}", "chat")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.stored(home)} == {f"k{n}" for n in range(8)}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "role": "root"}]}'])
def test_a_file_that_cannot_be_read_lets_nobody_in(home: Home, text: str):
    _, secret = keys.add(home, "shop", "chat")
    ring = Keyring(home, None, loopback=True)
    (home.keys / "keys.json").write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        Keyring(home, None, loopback=True)
    ring.refresh()
    assert ring.find(f"Bearer {secret}").name == "shop"
    with pytest.raises(ApiError):
        ring.find(None)


def test_a_ring_sees_what_was_added_and_revoked(home: Home):
    ring = Keyring(home, None, loopback=True)
    assert ring.find(None) is ANYONE
    _, first = keys.add(home, "one", "chat", tenant="acme")
    _, second = keys.add(home, "two", "feedback")
    ring.refresh()
    assert [ring.find(f"Bearer {secret}").name for secret in (first, second)] == ["one", "two"]
    assert ring.tenants == {"default", "acme"}
    for name in ("one", "two"):
        keys.revoke(home, name)
    ring.refresh()
    for given in (None, f"Bearer {first}", f"Bearer {second}", "Bearer "):
        with pytest.raises(ApiError) as caught:
            ring.find(given)
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_a_revocation_that_could_not_be_read_at_first_holds_once_it_can(home: Home, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> str:
        raise OSError

    _, secret = keys.add(home, "shop", "chat")
    ring = Keyring(home, None, loopback=True)
    keys.revoke(home, "shop")
    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_text", fail)
        ring.refresh()
    assert ring.find(f"Bearer {secret}").name == "shop"
    ring.refresh()
    with pytest.raises(ApiError):
        ring.find(f"Bearer {secret}")


def test_beyond_loopback_it_is_never_open(home: Home):
    with pytest.raises(ApiError):
        Keyring(home, None, loopback=False).find(None)


ENVIRONMENT = Key(name="LLMAGENTOS_API_KEY", role="admin", hash=hashlib.sha256(b"k").hexdigest())


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer x", "k", "Basic k", "Bearer k k"])
def test_wrong_keys(home: Home, given: str | None):
    with pytest.raises(ApiError) as caught:
        Keyring(home, ENVIRONMENT, loopback=True).find(given)
    assert caught.value.status == 401


def test_the_environments_key_stands_beside_the_stored_ones(home: Home):
    _, secret = keys.add(home, "shop", "chat")
    ring = Keyring(home, ENVIRONMENT, loopback=False)
    assert ring.find("bearer k").role == "admin"
    assert ring.find(f"Bearer {secret}").role == "chat"


def test_a_role_opens_its_routes_only():
    for role in keys.ANY:
        key = Key(name="k", role=role)
        keys.check_role(key, keys.ANY)
        for roles in (keys.CHAT, keys.ADMIN):
            if role in roles:
                keys.check_role(key, roles)
                continue
            with pytest.raises(ApiError) as caught:
                keys.check_role(key, roles)
            assert (caught.value.status, caught.value.body()["error"]["type"]) == (403, "permission_error")
