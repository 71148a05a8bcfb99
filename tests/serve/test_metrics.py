import json
import re
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from llmagentos.serve.metrics import Metrics
from tests.serve.conftest import Served, chat

DASHBOARD = json.loads((Path(__file__).parents[2] / "k8s" / "grafana" / "llmagentos.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_two_replicas_in_one_process_do_not_share_figures():
    one, two = Metrics(), Metrics()
    one.requests.labels("/v1/feedback", "200").inc()
    line = b'llmagentos_requests_total{route="/v1/feedback",status="200"} 1.0'
    assert line in one.text()
    assert line not in two.text()


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


def test_the_dashboard_shows_speed_by_version_the_queue_and_refusals():
    asked = " ".join(QUERIES)
    for name in ("first_token_seconds", "token_seconds", "queue_length", "queue_seconds", "requests_total", "champion"):
        assert f"llmagentos_{name}" in asked
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(p["x"] + i, p["y"] + j) for p in places for i in range(p["w"]) for j in range(p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
