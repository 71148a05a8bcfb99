"""API keys: who may ask for what, and on whose behalf. A key's secret is shown once; a salted hash of it is kept.

The file is its user's alone (0600) and replaced whole. Replicas look at it every `serve.poll_seconds`. A revoked key
stays in it as a name, so that revoking the last one closes the endpoint rather than opening it.
"""

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from typing import Literal

from pydantic import ValidationError

from llmagentos.core.errors import ConfigError, ConflictError, NotFoundError
from llmagentos.core.records import TENANT, Record
from llmagentos.serve.errors import ApiError
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import exclusive

logger = logging.getLogger(__name__)

Role = Literal["chat", "feedback", "admin"]
ADMIN: tuple[Role, ...] = ("admin",)
CHAT: tuple[Role, ...] = ("chat", "admin")
ANY: tuple[Role, ...] = ("chat", "feedback", "admin")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_BYTES, _SALT_BYTES = 32, 16


class Key(Record):
    """One key as it is stored."""

    name: str
    role: Role
    tenant: str = TENANT
    per_minute: int | None = None
    """Requests a minute; None is no limit."""
    tokens_per_day: int | None = None
    """Answer tokens a day; None is no limit."""
    salt: str = ""
    hash: str = ""
    """SHA-256 of salt and secret, in hex."""
    revoked: bool = False
    created: float = 0.0

    def fits(self, secret: bytes) -> bool:
        """Whether it is this key's secret; takes the same time for any."""
        return hmac.compare_digest(_hash(self.salt, secret), self.hash)


ANYONE = Key(name="anyone", role="admin")
"""Whoever asks where no key is needed: on loopback, without any key."""


def stored(home: Home) -> list[Key]:
    """The keys of a home, revoked ones too. Raises ConfigError for a file that cannot be read."""
    path = home.keys / "keys.json"
    try:
        return [Key.model_validate(one) for one in json.loads(path.read_text("utf-8"))["keys"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(
            f"the API keys in {path} cannot be read ({type(error).__name__}), so nobody could be let in.",
            hint="Restore the file; or remove it and add the keys anew.",
        ) from None


def add(
    home: Home,
    name: str,
    role: str,
    *,
    tenant: str = TENANT,
    per_minute: int | None = None,
    tokens_per_day: int | None = None,
) -> tuple[Key, str]:
    """A new key and its secret, which is not kept. The name of a revoked key may be used again.

    Raises ConfigError for a name, tenant, role or quota that cannot be, ConflictError for a name that is taken.
    """
    for field, value in (("name", name), ("tenant", tenant)):
        if not _NAME.fullmatch(value):
            raise ConfigError(f"--{field} {value!r}: give 1 to 64 letters, digits, dots, dashes and underscores.")
    if role not in ANY:
        raise ConfigError(f"--role {role!r} is none.", hint=f"Choose one of {', '.join(ANY)}.")
    for field, number in (("per-minute", per_minute), ("tokens-per-day", tokens_per_day)):
        if number is not None and number < 1:
            raise ConfigError(f"--{field} {number}: give 1 or more, or leave it out for no limit.")
    secret, salt = f"sk-{secrets.token_urlsafe(_SECRET_BYTES)}", secrets.token_hex(_SALT_BYTES)
    key = Key.model_validate(
        {
            "name": name,
            "role": role,
            "tenant": tenant,
            "per_minute": per_minute,
            "tokens_per_day": tokens_per_day,
            "salt": salt,
            "hash": _hash(salt, secret.encode()),
            "created": time.time(),
        }
    )
    with exclusive(home.keys / "lock"):
        known = stored(home)
        if any(one.name == name and not one.revoked for one in known):
            raise ConflictError(f"there is a key {name!r} already.", code="key_exists", hint="Revoke it first.")
        # A tenant whose last key's name is another's now had records, and they are nobody else's.
        _write(home, [*(one for one in known if one.name != name or one.tenant != tenant), key])
    return key, secret


def revoke(home: Home, name: str) -> Key:
    """Refuse a key from now on. Raises NotFoundError for a name that no valid key has."""
    with exclusive(home.keys / "lock"):
        known = stored(home)
        key = next((one for one in known if one.name == name and not one.revoked), None)
        if key is None:
            raise NotFoundError(f"there is no key {name!r} to revoke.", hint="`llmagentos keys list` names them.")
        gone = key.model_copy(update={"revoked": True, "salt": "", "hash": ""})
        _write(home, [gone if one is key else one for one in known])
    return gone


class Keyring:
    """The keys as a replica last saw them. `environment` is the one key that is not in the file; `loopback` says
    whether nobody else can reach us, which is the only place to be open without any key."""

    def __init__(self, home: Home, environment: Key | None, *, loopback: bool) -> None:
        self._home, self._environment, self._loopback = home, environment, loopback
        self._mark = self._look_at_file()
        self._stored = stored(home)

    def refresh(self) -> None:
        """Read the file again if it changed. One that cannot be read leaves the keys as they were, and is read again."""
        mark = self._look_at_file()
        if mark == self._mark:
            return
        try:
            self._stored = stored(self._home)
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error)
            return
        self._mark = mark

    @property
    def tenants(self) -> set[str]:
        return {TENANT, *(key.tenant for key in self._stored)}

    def find(self, authorization: str | None) -> Key:
        """The key of a request's Authorization header. Raises ApiError 401 for none or a wrong one."""
        valid = [key for key in self._stored if not key.revoked]
        if self._environment:
            valid.append(self._environment)
        if self._loopback and not self._stored and not valid:
            return ANYONE
        scheme, _, given = (authorization or "").partition(" ")
        secret = given.strip().encode("latin-1", "replace")  # the header's bytes as they came
        fitting = [key for key in valid if key.fits(secret)]  # every key is compared, whichever fits
        if not fitting or scheme.lower() != "bearer":
            raise ApiError(401, "a valid API key is needed: Authorization: Bearer <key>.", code="invalid_api_key")
        return fitting[0]

    def _look_at_file(self) -> tuple[int, int, int] | None:
        try:
            found = (self._home.keys / "keys.json").stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def check_role(key: Key, roles: tuple[Role, ...]) -> None:
    """Raises ApiError 403 unless the key has one of the roles."""
    if key.role not in roles:
        raise ApiError(
            403,
            f"the key {key.name!r} has the role {key.role!r}, and this route needs {' or '.join(roles)}.",
            code="insufficient_permissions",
        )


def _hash(salt: str, secret: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + secret).hexdigest()


def _write(home: Home, keys: list[Key]) -> None:
    body = {"keys": [key.model_dump(mode="json") for key in keys]}
    replace_text(home.keys / "keys.json", json.dumps(body, indent=1), durable=True, mode=0o600)
