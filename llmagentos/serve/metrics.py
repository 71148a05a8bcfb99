"""Figures of the replicas in Prometheus' text format. Labels hold routes, numbers and replicas, never ids or text.

A scrape reaches one replica, whichever the ingress picks, and must show all of them: each leaves its figures in a small
file, and the one that is asked joins the files, its own freshly written. All read the same files, so no series of one
replica goes back from one scrape to the next.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

from llmagentos.serve.traffic import Visit
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


_LIVE_SECONDS = 15.0
"""Figures that are older are a dead replica's, or a hanging one's."""
_GONE_SECONDS = 3600.0
"""For how long the series of a version outlive its engine: scrapes must see its last figures."""
LEAVE_SECONDS = 5.0
"""How often a replica leaves its figures."""


class Metrics:
    """Figures of one replica. Own registry, so that two services in one process do not collide."""

    def __init__(self, replica: str) -> None:
        self._replica, self._leaving = replica, threading.Lock()
        self._registry = CollectorRegistry()
        self._served: dict[str, float] = {}  # version -> when it was last loaded, on the monotonic clock
        self.requests = self._counter("requests", "Requests by route and status", "route", "status")
        self.request_seconds = self._histogram("request_seconds", "Time of a request to its last byte", _SECONDS, "route")
        self.seconds = self._histogram("answer_seconds", "Time of a whole answer", _SECONDS)
        self.queue_seconds = self._histogram("queue_seconds", "Time until a request's turn came", _SECONDS, "route")
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "Time from a request to its first token, streams only", _SECONDS, "version", "route"
        )
        self.token_seconds = self._histogram(
            "token_seconds", "Time per token of an answer, behind the first where it streams", _TOKEN_SECONDS, "version", "route"
        )
        self.tokens = self._counter("tokens", "Tokens read and written, by version", "kind", "version")
        self.answers = self._counter("answers", "Answers by version and end", "version", "end")
        self.version = self._gauge("champion", "Version that answers as champion")
        self.unflushed = self._gauge("spool_records", "Records waiting for a flush")
        self.ongoing = self._gauge("ongoing", "Answers under way")
        self.queue = self._gauge("queue_length", "Requests that wait for their turn to be answered")
        self._as_of = self._gauge("as_of_timestamp_seconds", "Unix time of a replica's figures")

    def enter_queue(self, visit: Visit) -> None:
        """The request waits for its turn."""
        visit.queued = True
        self.queue.inc()

    def leave_queue(self, visit: Visit) -> None:
        """Its turn came, or it was refused or left; asked again it counts no more."""
        if visit.queued:
            visit.queued = False
            self.queue.dec()
            self.queue_seconds.labels(visit.route).observe(time.perf_counter() - visit.began)

    def forget_all_but(self, versions: Iterable[int]) -> None:
        """Remove the series of versions that were not among those that are loaded for long: every day brings another one."""
        with self._leaving:
            now = time.monotonic()
            self._served |= {str(version): now for version in versions}
            for family in (self.first_token_seconds, self.token_seconds, self.tokens, self.answers):
                for version in {sample.labels["version"] for metric in family.collect() for sample in metric.samples}:
                    if now - self._served.setdefault(version, now) > _GONE_SECONDS:
                        family.remove_by_labels({"version": version})
            self._served = {version: at for version, at in self._served.items() if now - at <= _GONE_SECONDS}

    def text(self) -> str:
        """The exposition of this replica alone."""
        self._as_of.set_to_current_time()
        return generate_latest(self).decode("utf-8")

    def collect(self) -> Iterator[Metric]:
        """The registry's families, each series with this replica's label."""
        for family in self._registry.collect():
            named = [sample._replace(labels={**sample.labels, "replica": self._replica}) for sample in family.samples]
            family.samples = named
            yield family

    def leave(self, home: Home) -> str:
        """Write this replica's exposition where the others find it; a disk that fails costs them, not the one asked."""
        with self._leaving, contextlib.suppress(OSError):
            text = self.text()
            _folder(home).mkdir(parents=True, exist_ok=True)
            replace_text(_folder(home) / f"{self._replica}.prom", text)
        return text

    def withdraw(self, home: Home) -> None:
        """This replica is no more. Raises OSError."""
        (_folder(home) / f"{self._replica}.prom").unlink(missing_ok=True)

    def of_all(self, home: Home) -> str:
        """The exposition of all live replicas, this one's as it is now."""
        own = {self._replica: self.leave(home)}
        return _joined((_left(home) | own).values())

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"llmagentos_{name}", words, labels, registry=self._registry)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"llmagentos_{name}", words, registry=self._registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"llmagentos_{name}", words, labels, buckets=buckets, registry=self._registry)


def _folder(home: Home) -> Path:
    return home.served / "figures"


def _left(home: Home) -> dict[str, str]:
    """Live replica -> its exposition; what dead ones left is removed."""
    found = {}
    for path in sorted(_folder(home).glob("*.prom")):
        with contextlib.suppress(OSError):  # it was withdrawn meanwhile
            if time.time() - path.stat().st_mtime < _LIVE_SECONDS:
                found[path.stem] = path.read_text("utf-8")
            else:
                path.unlink()
    return found


def _joined(texts: Iterable[str]) -> str:
    """One exposition of several: Prometheus wants each family once, all its series together."""
    families: dict[str, list[str]] = {}
    for text in texts:
        for family in text.split("# HELP ")[1:]:
            words, kind, *series = family.splitlines()
            families.setdefault(words.split()[0], [f"# HELP {words}", kind]).extend(series)
    return "".join(f"{line}\n" for family in families.values() for line in family)
