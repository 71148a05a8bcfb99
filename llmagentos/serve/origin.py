"""Where nobody needs a key: a request must not be some web page's, whose browser reaches this machine as its user does.

A browser says which page asks (Sec-Fetch-Site, Origin) and under which name it reached us (Host): a page elsewhere that
gave its own name our address is met under that name. Other clients send no more than a Host.
"""

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from llmagentos.serve.errors import ApiError
from llmagentos.serve.traffic import is_loopback

_OWN_SITES = ("same-origin", "none")
"""Our own page, and what the user typed."""


def check_own(headers: Mapping[str, str]) -> None:
    """Raises ApiError 403 for a request of another page than our own, or under a name that is not this machine's."""
    if wrong := _wrong(headers.get("sec-fetch-site", ""), headers.get("origin", ""), headers.get("host", "")):
        raise _foreign(*wrong)


@lru_cache(maxsize=64)
def _wrong(site: str, origin: str, host: str) -> tuple[str, str] | None:
    """The header that gives a foreign page away, and its value."""
    site, origin, host = (value.strip().lower() for value in (site, origin, host))
    if site and site not in _OWN_SITES:
        return "Sec-Fetch-Site", site
    if origin and origin.partition("://")[2] != host:
        return "Origin", origin
    return ("Host", host) if host and not _is_here(host) else None


def _is_here(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    name = name.removesuffix(".")
    return is_loopback(name) or name.endswith(".localhost") or name == "0.0.0.0"  # noqa: S104  which reaches this machine alone


def _foreign(header: str, value: str) -> ApiError:
    return ApiError(
        403,
        f"{header}: is {value[:100]!r}, and without an API key only this machine's own programs and page may ask. "
        "Ask at http://127.0.0.1 or localhost, not from another web page; or add a key with `llmagentos keys add`.",
        param=header.lower(),
        code="origin_not_allowed",
    )
