import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmagentos.serve import metrics
from llmagentos.serve.metrics import Metrics
from llmagentos.storage.layout import Home
from tests.serve.conftest import Served, chat, until

DASHBOARD = json.loads((Path(__file__).parents[2] / "k8s" / "grafana" / "llmagentos.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def replicas(text: str) -> dict[str, float]:
    """Replica -> requests it answered; a figure without the label is nobody's."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.labels["replica"] for sample in samples)
    return {s.labels["replica"]: s.value for s in samples if s.name == "llmagentos_requests_total"}


def test_a_scrape_of_either_replica_shows_both_and_goes_never_back(tmp_path):
    home, one, two = Home(tmp_path).open(), Metrics("one"), Metrics("two")
    for replica, times in ((one, 3), (two, 5)):
        replica.requests.labels("/v1/feedback", "200").inc(times)
        replica.leave(home)
    assert replicas(one.of_all(home)) == replicas(two.of_all(home)) == {"one": 3, "two": 5}
    one.requests.labels("/v1/feedback", "200").inc()
    assert [replicas(asked.of_all(home))["one"] for asked in (two, one, two)] == [3, 4, 4]
    kinds = [line for line in two.of_all(home).splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds)) > 10


def test_figures_of_a_replica_that_is_gone_go(tmp_path):
    home, one, two = Home(tmp_path).open(), Metrics("one"), Metrics("two")
    for replica in (one, two):
        replica.requests.labels("/v1/feedback", "200").inc()
        replica.leave(home)
    two.withdraw(home)
    assert set(replicas(one.of_all(home))) == {"one"}
    two.leave(home)
    (left,) = home.served.rglob("two.prom")
    os.utime(left, (1, 1))  # it was killed
    assert set(replicas(one.of_all(home))) == {"one"}
    assert not left.exists()


def versions(text: str) -> set[str]:
    """Versions that the figures tell of."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.labels["version"] for sample in samples if "version" in sample.labels}


def test_figures_of_versions_that_left_long_ago_go(monkeypatch: pytest.MonkeyPatch):
    figures, now = Metrics("one"), 0.0
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: now))
    for version in range(1, 101):  # one an hour, served beside the first
        now = version * 3600.0
        figures.answers.labels("1", "stop").inc()
        figures.answers.labels(str(version), "stop").inc()
        figures.first_token_seconds.labels(str(version), "/v1/completions").observe(0.1)
        figures.tokens.labels("answer", str(version)).inc(8)
        figures.forget_all_but([1, version])
    assert versions(figures.text()) == {"1", "99", "100"}
    assert 'version="1"} 101.0' in figures.text(), "what still serves is counted on"
    figures.answers.labels("7", "stop").inc()
    figures.forget_all_but([1])
    assert "7" in versions(figures.text()), "it came and went between two looks"
    now += 3601
    figures.forget_all_but([1])
    assert (versions(figures.text()), set(figures._served)) == ({"1"}, {"1"})


def test_a_replica_forgets_versions_that_left_long_ago(start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_GONE_SECONDS", -1.0)
    served = start()
    with served.client() as client:
        client.post("/v1/chat/completions", json=chat())
        until(lambda: not versions(client.get("/metrics").text))


def test_tokens_are_told_by_the_version_that_read_and_wrote_them(start: Callable[..., Served]):
    wanted: Counter[tuple[str, str]] = Counter()
    with start().client() as client:
        for model, version in (("agent", "1"), ("agent@2", "2"), ("agent@2", "2")):
            used = client.post("/v1/chat/completions", json=chat(model=model)).json()["usage"]
            wanted.update({("prompt", version): used["prompt_tokens"], ("answer", version): used["completion_tokens"]})
        samples = [sample for family in text_string_to_metric_families(client.get("/metrics").text) for sample in family.samples]
    tokens = [sample for sample in samples if sample.name == "llmagentos_tokens_total"]
    assert {(s.labels["kind"], s.labels["version"]): s.value for s in tokens} == wanted


def test_a_disk_that_fails_hides_no_figures(tmp_path):
    home, one = Home(tmp_path).open(), Metrics("one")
    one.requests.labels("/v1/feedback", "200").inc()
    home.served.write_text("in the way")
    assert replicas(one.of_all(home)) == {"one": 1}


def test_the_dashboard_asks_for_figures_and_labels_that_there_are(start: Callable[..., Served]):
    with start().client() as client:
        client.post("/v1/chat/completions", json=chat(stream=True))
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    labels = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    asked = {name for query in QUERIES for name in re.findall(r"llmagentos_\w+", query)}
    assert asked <= set(labels)
    for query in QUERIES:
        there = set.union(*(labels[name] for name in re.findall(r"llmagentos_\w+", query)))
        used = {word for group in re.findall(r"by \(([^)]*)\)", query) for word in group.split(", ")}
        used |= set(re.findall(r"(\w+)=~", query))
        assert used <= there, query
        assert re.match(r"(max|sum|histogram_quantile\([\d.]+, sum)\b", query), "it is one of all replicas"


def test_the_dashboard_shows_speed_by_version_the_queue_and_refusals():
    asked = " ".join(QUERIES)
    for name in ("first_token_seconds", "token_seconds", "queue_length", "queue_seconds", "requests_total", "champion"):
        assert f"llmagentos_{name}" in asked
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(p["x"] + i, p["y"] + j) for p in places for i in range(p["w"]) for j in range(p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
