"""The live page at `/`: one static file. It holds no data, so it needs no key; what it shows it asks for with one."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def page(_request: Request) -> Response:
    """The page, under a policy that lets it run its own script, ask this server, and nothing else."""
    html, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


@cache
def _page() -> tuple[str, str]:
    html = files("llmagentos.serve").joinpath("page.html").read_text("utf-8")
    script, style = (_hashes(html, tag) for tag in ("script", "style"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:"
    return html, f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _hashes(html: str, tag: str) -> str:
    """The inline parts of a kind as sources of a content security policy."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts)
