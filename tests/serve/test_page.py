"""The live page: what it is made of everywhere, and in a real browser where there is one."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.serve import keys
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.serve.browser import FOUND, Browser
from tests.serve.conftest import Served, chat, new_home, until

HTML = files("llmagentos.serve").joinpath("page.html").read_text("utf-8")
SCORES = {1: {"general": 1.0, "prices": 0.0}, 2: {"general": 0.9, "prices": 1.0}, 3: {"general": 0.5}}
REASON = 'general fell <img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def shop(start: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> tuple[Served, str]:
    """Three versions with scores, two decisions, a release, and an admin's key."""
    home = new_home(tmp_path_factory.mktemp("page"))
    for number, scores in SCORES.items():
        Versions(home).change(number, scores=scores, status="rejected" if number == 3 else "promoted")
    for epoch in (0, 1):  # a promotion writes it, and so does the cycle behind it
        decide(home, epoch, "Promote", ["kept everything"], 2, cycle=1)
    decide(home, 2, "Reject", [REASON, "prices were not asked"], 3)
    Releases(home).promote(2, by="test", reason="kept everything")
    return start(home=home), keys.add(home, "desk", "admin")[1]


def decide(home: Home, epoch: int, verdict: str, reasons: list[str], challenger: int, cycle: int = 2) -> None:
    said = {"verdict": verdict, "reasons": reasons, "cycle": f"c{cycle}", "challenger": challenger}
    row = {"epoch": epoch, "id": f"s{cycle}", "status": verdict, "decision": json.dumps(said), "created": 1000.0 + epoch}
    Tables(home).append("snapshots", [row])


def test_it_is_one_file_that_asks_for_nothing_from_elsewhere(shop: tuple[Served, str]):
    reply = httpx.get(shop[0].url)
    assert (reply.status_code, reply.text) == (200, HTML)
    assert re.findall(r"https?://[^\"'`\s]+", HTML) == ["http://www.w3.org/2000/svg"]  # a name, never fetched
    assert not re.search(r"innerHTML|<(link|script|img)[^>]*(src|href)=\"(?!data:)", HTML)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-", policy)) == 2


def test_the_status_has_what_it_shows(shop: tuple[Served, str]):
    served, secret = shop
    with served.client(Authorization=f"Bearer {secret}") as client:
        until(lambda: client.get("/readyz").json()["model_version"] == 2)
        status = client.get("/v1/status").json()
        assert client.get("/metrics").headers["x-replica"] in status["replicas"]
    release = Releases(served.home).current()
    assert (status["champion"], status["since"], status["aliases"]) == (
        2,
        release.created,
        {"champion": 2, "previous": 1, "student": 4},
    )
    assert [(r["action"], r["champion"], r["reason"]) for r in status["releases"]] == [
        ("promote", 2, "kept everything"), ("bootstrap", 1, "test"),
    ]  # fmt: skip
    assert [(d["verdict"], d["challenger"], d["reasons"][0]) for d in status["decisions"]] == [
        ("Reject", 3, REASON), ("Promote", 2, "kept everything"),
    ]  # fmt: skip
    assert set(re.findall(r"status\.(\w+)", HTML)) <= set(status)


def test_since_when_is_when_the_champion_changed_last(start: Callable[..., Served], tmp_path):
    home = new_home(tmp_path / "home")
    first = Releases(home).current()
    Releases(home).challenge(2, by="test", reason="waits")
    with start(home=home).client() as client:
        status = client.get("/v1/status").json()
    assert (status["champion"], status["since"]) == (1, first.created)
    assert status["stage"] is None
    assert status["releases"][0]["action"] == "challenge"


def test_a_version_on_trial_is_in_the_status(start: Callable[..., Served], tmp_path):
    home = new_home(tmp_path / "home")
    Releases(home).begin(2, ["canary"], share=0.1, by="test", reason="better")
    with start(home=home).client() as client:
        said = client.get("/v1/status").json()["stage"]
    assert (said["name"], said["serves"], said["next"]) == ("canary", {"1": 0.9, "2": 0.1}, "champion")
    assert said["waits_for"]
    assert set(re.findall(r"\bon\.(\w+)", HTML)) <= set(said)


@pytest.mark.skipif(FOUND is None, reason="no Chromium on this machine; what the page is made of is tested above")
def test_a_browser_shows_it_once_the_key_is_typed(shop: tuple[Served, str], tmp_path: Path):
    served, secret = shop
    with Browser(tmp_path / "profile") as browser:
        browser.show(f"{served.url}/")
        browser.wait("document.body.dataset.ready === 'key' && document.activeElement.id === 'key'")
        browser.type("sk-wrong")
        browser.wait("document.getElementById('why').textContent.includes('not valid')")
        browser.type(secret)
        browser.wait("document.body.dataset.ready === 'true'")
        with served.client(Authorization=f"Bearer {secret}") as client:
            client.post("/v1/chat/completions", json=chat())
        assert "version 2 serves since" in browser.run("document.getElementById('serves').textContent")
        assert browser.run("document.querySelectorAll('#versions tbody tr').length") == 4
        assert REASON in browser.run("document.getElementById('decisions').textContent")  # as text: nothing of it runs
        assert browser.run("document.getElementById('stage').hidden")
        Releases(served.home).begin(3, ["canary"], share=0.1, by="test", reason="better")
        browser.wait("document.getElementById('stage').textContent.includes('version 3 answers 10 % of the sessions')")
        cells = "[...document.querySelectorAll('#matrix tbody tr')].map(r => [...r.children].map(c => c.textContent))"
        assert browser.run(cells) == [["general", "100", "90.0", "50.0"], ["prices", "0.0", "100", ""]]
        lost = "[...document.querySelectorAll('#matrix td .lost')].map(c => c.textContent)"
        assert browser.run(lost) == ["90.0", "50.0"]
        browser.wait("Number(document.querySelector('#tiles .tile:last-child b').textContent) >= 1")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("document.title") == "LLMAgentOS"
        assert browser.run("sessionStorage.length + localStorage.length") == 1
        assert secret not in browser.run("location.href + document.documentElement.outerHTML")
        browser.run("document.getElementById('forget').click()")
        browser.wait("document.body.dataset.ready === 'key'")
        assert browser.run("sessionStorage.length") == 0
    failures = [said for said in browser.events if said.get("entry", {}).get("source") != "network"]
    assert failures == []
