from llmagentos.config import Config
from llmagentos.local import keys
from llmagentos.serve.keys import stored
from llmagentos.storage.layout import Home


def test_added_listed_revoked(config: Config):
    added = keys.add(config, "shop", "chat", tenant="acme", tokens_per_day=1000)
    assert added["secret"].startswith("sk-")
    (listed,) = keys.listing(config)["data"]
    assert listed == {name: value for name, value in added.items() if name not in ("secret", "note")}
    (kept,) = stored(Home(config.storage.root))
    assert not {kept.salt, kept.hash, added["secret"]} & set(map(str, listed.values()))
    assert keys.revoke(config, "shop")["revoked"] is True
    assert [key["revoked"] for key in keys.listing(config)["data"]] == [True]
