"""What stands between Ray Serve and HAProxy: the configuration Serve wrote is shut, then HAProxy takes this process over.

Serve's template opens a page of figures and an exporter at every address without asking for a key, makes the admin
socket everybody's, and says 404 or 500 while no replica answers; none of that has a setting. Serve starts the program
that RAY_SERVE_HAPROXY_BINARY_PATH names, so it is given this one. It runs before every reload, hence stdlib only.
A configuration that is not understood is refused: nothing starts rather than something open.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REQUEST_ID = "x-ingress-request"
"""Header with an id of each request, which stays the same when HAProxy puts the request to another replica."""
_ANSWERED = ("/v1/chat/completions", "/v1/completions")
"""Routes that are answered by an engine, and refused here while more wait for it than may: a replica that is asked ten times
what it can do would spend its time on saying no."""
_REPLAYED = (*_ANSWERED, "/v1/feedback")
"""Routes beside GET and HEAD where a request put twice does what it does once."""
_UNAVAILABLE = (
    '{"error":{"message":"no replica answers just now; ask again.","type":"service_unavailable_error",'
    '"param":null,"code":"unavailable"}}'
)
_FULL = (
    '{"error":{"message":"too many requests are waiting already.","type":"rate_limit_error",'
    '"param":null,"code":"rate_limit_exceeded"}}'
)
_SHUT = ("frontend prometheus", "listen stats")
_BEGIN = re.compile(r"^\w", re.MULTILINE)


class OpenConfigurationError(Exception):
    """The configuration is not as expected, so that it may listen where nobody should be heard."""


def shut(text: str, page: Path, most: int = 0) -> str:
    """A configuration of Serve without what listens beside the endpoint; `page` is the file with the 503 to answer. Beyond
    `most` requests a replica answers are refused; 0 refuses none.

    Raises OpenConfigurationError where something else than the endpoint would listen.
    """
    kept = [_changed(part, page, most) for part in sections(text) if not part.startswith(_SHUT)]
    found = "".join(kept)
    if len(re.findall(r"^\s*bind\s", found, re.MULTILINE)) != 1:
        raise OpenConfigurationError("more than the endpoint would listen")
    if "mode 600 level admin" not in found:
        raise OpenConfigurationError("the admin socket would be open to everybody on the machine")
    return found


def sections(text: str) -> Iterator[str]:
    """The sections of a configuration: each begins with a word at the start of a line."""
    starts = [found.start() for found in _BEGIN.finditer(text)]
    for begin, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield text[begin:end]


def _changed(part: str, page: Path, most: int) -> str:
    name = part.split("\n", 1)[0].strip()
    if name == "global":
        part = re.sub(r"^\s*log .*\n", "", part, flags=re.MULTILINE)  # paths name users, and anybody may listen
        return re.sub(r"(stats socket .*) mode \d+ ", r"\1 mode 600 ", part)
    if name == "defaults":
        part = part.rstrip() + "\n    option http-buffer-request\n"  # only a request that is there whole is put to another
        # A body that comes drop by drop is bounded as a whole, not only each of its drops.
        part = re.sub(r"^(\s*timeout) client (.*)$", r"\g<0>\n\1 http-request \2", part, flags=re.MULTILINE)
        return re.sub(r"^(\s*errorfile \d+) .*$", rf"\1 {page}", part, flags=re.MULTILINE)
    if name == "frontend http_frontend":
        again = f"    http-request set-header {REQUEST_ID} %[uuid]\n"
        again += f"    http-request disable-l7-retry if !METH_GET !{{ path {' '.join(_REPLAYED)} }}\n"
        return re.sub(r"^(\s*bind .*\n)", lambda bind: bind[0] + again, part, count=1, flags=re.MULTILINE)
    if name == "backend default_backend":
        said = f"status 503 content-type application/json hdr Retry-After 2 string '{_UNAVAILABLE}'"
        return f"backend default_backend\n    http-request return {said}\n"
    if name.startswith("backend ") and most:
        said = f"status 429 content-type application/json hdr Retry-After 1 string '{_FULL}'"
        limit = most * len(re.findall(r"^\s*server ", part, re.MULTILINE))
        full = f"    http-request return {said} if {{ path {' '.join(_ANSWERED)} }} {{ be_conn gt {limit} }}\n"
        return part.replace("\n", f"\n{full}", 1)
    return part


def answer(body: str = _UNAVAILABLE) -> str:
    """The whole HTTP answer while no replica answers."""
    lines = ["HTTP/1.1 503 Service Unavailable", "Content-Type: application/json", "Retry-After: 2"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", body])


def left_over(configuration: str) -> list[str]:
    """Pids of this user that run with this very configuration file: HAProxy outlives whoever started it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ours = entry.stat().st_uid == os.getuid() and configuration.encode() in words
        except OSError:
            continue
        if ours and entry.name != str(os.getpid()):
            found.append(entry.name)
    return found


def main(binary: str, most: int, arguments: list[str]) -> None:
    """Shut the configuration that `arguments` name and become HAProxy, in the place of whoever still holds its port."""
    if "-f" in arguments:
        path = Path(arguments[arguments.index("-f") + 1])
        page = path.with_name("503.http")
        page.write_text(answer())
        path.write_text(shut(path.read_text(), page, most))
        if "-sf" not in arguments and (pids := left_over(str(path))):
            arguments = [*arguments, "-sf", *pids]
    with contextlib.suppress(OSError):  # Ray lowers whoever starts this; not everybody may go back
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
