"""A configuration, and what is said of it, as others may read it: an address keeps who signs in with which password to itself."""

import re
from typing import Any

from llmagentos.config.config import Config

_USERINFO = re.compile(r"(?<=://)[^\s/]\S*@")
"""Up to the last @ of a word: a password may hold one, and a little too much hidden does no harm."""
_PASSWORD = re.compile(r"(?i)(?<=[?&;])((?:ssl)?password|passwd|pwd|token)=[^&;\s'\"]*")


def masked(text: object) -> str:
    """A text, an error's say, with what stands before the @ of its addresses and behind their `password=` hidden."""
    return _PASSWORD.sub(r"\1=***", _USERINFO.sub("***@", str(text)))


def shown(config: Config) -> dict[str, Any]:
    """All settings as JSON values, to be stored or looked at; whoever is to work by them needs the configuration itself."""
    found = config.model_dump(mode="json")
    found["registry"]["tracking_uri"] = masked(config.registry.tracking_uri)
    return found
