"""Who asks, for which version, and under which id: read from the headers and the body of a request."""

import hashlib
import ipaddress
import os
import time
import uuid
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError, InputError
from llmagentos.core.hashing import digest
from llmagentos.serve.errors import ApiError
from llmagentos.serve.keys import ANYONE, Key, stored
from llmagentos.storage.layout import Home

INGRESS_REQUEST = "x-ingress-request"
"""Header in which the ingress gives every request an id of its own, whatever the client sent there."""
_INGRESS_BYTES = INGRESS_REQUEST.encode()
_LONGEST = 256
_KINDS = (
    "", "application/json", "text/json", "application/x-ndjson", "application/ndjson", "application/jsonl",
    "application/x-jsonlines", "application/octet-stream", "application/x-www-form-urlencoded",
)  # fmt: skip
_ALIASES = ("champion", "previous", "student")


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    tenant: str
    user_id: str | None
    session_id: str


@dataclass
class Visit:
    """One request on its way through the replica: what its answer does not say, and its figures and log line need."""

    route: str
    key: Key = ANYONE
    began: float = field(default_factory=time.perf_counter)
    queued: bool = False
    """It waits for its turn to be answered."""
    interaction: str | None = None
    """The known interaction that it is about."""
    failure: int | None = None
    """Status of what its stream failed with, behind a head that said 200."""


_visit: ContextVar[Visit | None] = ContextVar("visit", default=None)


def begin(visit: Visit) -> None:
    """This is the request that the running task works on, and the tasks that it starts."""
    _visit.set(visit)


def visit() -> Visit | None:
    """The request that is worked on; None beside one, as for a probe of a new version."""
    return _visit.get()


def tenant() -> str:
    """Whose data the running request may see: its key says so, never its body."""
    found = visit()
    return found.key.tenant if found else ANYONE.tenant


def check_exposure(config: Config, environment: Mapping[str, str] | None = None) -> str | None:
    """SHA-256 of the environment's API key, or None without one.

    Raises ConfigError where we would be open beyond loopback, or where the stored keys cannot be read.
    """
    key = (os.environ if environment is None else environment).get(config.serve.api_key_env, "").strip()
    known = stored(Home(config.storage.root))
    if key:
        return hashlib.sha256(key.encode()).hexdigest()
    if not is_loopback(config.serve.host) and all(one.revoked for one in known):
        raise ConfigError(
            f"serve.host={config.serve.host!r} is reachable from elsewhere, {config.serve.api_key_env} is not set, "
            "and no key was added.",
            hint=f"`llmagentos keys add`, set {config.serve.api_key_env} to a secret, or serve.host=127.0.0.1.",
        )
    return None


def caller(headers: Mapping[str, str], metadata: Mapping[str, str], user: str | None) -> Caller:
    """Header before body before nothing; a request without a session begins one. Raises InputError."""
    session = header(headers, "x-session-id") or metadata.get("session_id") or f"sess-{uuid.uuid4().hex}"
    return Caller(tenant(), header(headers, "x-user-id") or user, session)


def interaction_id(headers: Mapping[str, str], tenant: str) -> tuple[str, str | None]:
    """The id of this request's interaction, and the client's key where that determines it. Raises InputError.

    Without a key it is the ingress's id of the request that determines it, so that a request which the ingress puts to
    a second replica has one interaction.
    """
    if key := header(headers, "idempotency-key"):
        return f"chatcmpl-{digest([tenant, key], length=32)}", key
    return f"chatcmpl-{once(headers, tenant)}", None


def once(headers: Mapping[str, str], tenant: str) -> str:
    """32 characters of this request alone, the same where the ingress puts it to another replica. Raises InputError."""
    given = header(headers, INGRESS_REQUEST)
    return digest([tenant, INGRESS_REQUEST, given], length=32) if given else uuid.uuid4().hex


def without_ingress(scope: MutableMapping[str, Any]) -> None:
    """Take from a request's headers the id that an ingress would have given it: where there is none, the client said it."""
    scope["headers"] = [one for one in scope["headers"] if one[0] != _INGRESS_BYTES]


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


def check_kind(headers: Mapping[str, str]) -> None:
    """Raises ApiError 415 for a body that says it is something else than JSON. One that says nothing is read as JSON,
    and so is what curl and urllib call any body unless they are told."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind in _KINDS or kind.endswith("+json")):
        message = f"Content-Type: is {kind[:100]!r}; send application/json, or application/x-ndjson to the batch route."
        raise ApiError(415, message, param="content-type", code="unsupported_media_type")


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


def is_loopback(host: str) -> bool:
    """Whether an address to bind is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
