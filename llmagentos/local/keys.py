"""API keys of a home from the command line: the secret is told once, and nobody can read it again."""

import time
from typing import Any

from llmagentos.config import Config
from llmagentos.serve import keys
from llmagentos.serve.keys import Key
from llmagentos.storage.layout import Home


def add(config: Config, name: str, role: str, **options: Any) -> dict[str, Any]:
    """A new key with its secret; `options` are tenant, per_minute and tokens_per_day."""
    key, secret = keys.add(Home(config.storage.root).open(), name, role, **options)
    note = "Keep the secret now: only a hash of it is stored. Running replicas take it within seconds."
    return {**_public(key), "secret": secret, "note": note}


def listing(config: Config) -> dict[str, Any]:
    """Every key, revoked ones too, without secrets or hashes."""
    home = Home(config.storage.root)
    return {"object": "list", "data": [_public(key) for key in keys.stored(home.open())] if home.begun else []}


def revoke(config: Config, name: str) -> dict[str, Any]:
    """Refuse a key from now on."""
    return _public(keys.revoke(Home(config.storage.root).open(), name))


def _public(key: Key) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(key.created))
    return {**key.model_dump(exclude={"salt", "hash", "created"}), "created": created}
