"""Who asks, for which version, and under which id: read from the headers and the body of a request."""

import hashlib
import hmac
import ipaddress
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError, InputError
from llmagentos.core.hashing import digest
from llmagentos.serve.errors import ApiError

TENANT = "default"
_LONGEST = 256
_ALIASES = ("champion", "previous", "student")


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    tenant: str
    user_id: str | None
    session_id: str


def check_exposure(config: Config, environment: Mapping[str, str] | None = None) -> str | None:
    """SHA-256 of the API key, or None without one. Raises ConfigError where we would be open beyond loopback."""
    key = (os.environ if environment is None else environment).get(config.serve.api_key_env, "").strip()
    if key:
        return hashlib.sha256(key.encode()).hexdigest()
    if not _is_loopback(config.serve.host):
        raise ConfigError(
            f"serve.host={config.serve.host!r} is reachable from elsewhere, and {config.serve.api_key_env} is not set.",
            hint=f"Set {config.serve.api_key_env} to a secret, or serve.host=127.0.0.1.",
        )
    return None


def check_key(key_hash: str | None, authorization: str | None) -> None:
    """Raises ApiError 401 unless the bearer token is the key. The comparison takes the same time for any key."""
    if key_hash is None:
        return
    scheme, _, given = (authorization or "").partition(" ")
    hashed = hashlib.sha256(given.strip().encode("latin-1", "replace")).hexdigest()  # the header's bytes as they came
    if not hmac.compare_digest(hashed, key_hash) or scheme.lower() != "bearer":
        raise ApiError(401, "a valid API key is needed: Authorization: Bearer <key>.", code="invalid_api_key")


def caller(headers: Mapping[str, str], metadata: Mapping[str, str], user: str | None) -> Caller:
    """Header before body before nothing; a request without a session begins one. Raises InputError."""
    session = header(headers, "x-session-id") or metadata.get("session_id") or f"sess-{uuid.uuid4().hex}"
    return Caller(TENANT, header(headers, "x-user-id") or user, session)


def interaction_id(headers: Mapping[str, str], tenant: str) -> tuple[str, bool]:
    """The id of this request's interaction, and whether the client's key determines it. Raises InputError."""
    key = header(headers, "idempotency-key")
    return (f"chatcmpl-{digest([tenant, key], length=32)}", True) if key else (f"chatcmpl-{uuid.uuid4().hex}", False)


def header(headers: Mapping[str, str], name: str) -> str | None:
    """A header's text, None when absent or empty. Raises InputError for one that is too long or no text."""
    value = headers.get(name)
    if value is None or not value.strip():
        return None
    if len(value) > _LONGEST:
        raise InputError(f"{name}: has {len(value)} characters, and may have {_LONGEST}.", field=name)
    try:
        return value.encode("latin-1").decode("utf-8").strip()
    except UnicodeError:
        raise InputError(f"{name}: is not UTF-8.", field=name) from None


def target(model: str | None, agent_name: str) -> str | int:
    """Which version a model id names: an alias or a number. Raises ApiError 400 without one, 404 for another's."""
    if not model:
        raise ApiError(400, f"model: is missing; ask for {agent_name!r}.", param="model", code="missing_model")
    name, at, which = model.partition("@")
    if name == agent_name and not at:
        return "champion"
    if name == agent_name and which in _ALIASES:
        return which
    if name == agent_name and which.isascii() and which.isdigit() and len(which) < 10:
        return int(which)
    raise unknown_model(model)


def unknown_model(model: str) -> ApiError:
    return ApiError(404, f"the model {model[:100]!r} does not exist.", param="model", code="model_not_found")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
