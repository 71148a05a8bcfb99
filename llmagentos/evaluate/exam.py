"""What an update is asked: live items of earlier increments, what this one was to teach, and what it superseded."""

from dataclasses import dataclass

from llmagentos.config.sections import EvaluateConfig
from llmagentos.core.evaluation import EvalItem, Suite, SuiteKind
from llmagentos.core.hashing import fraction
from llmagentos.storage import suites as store
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot


@dataclass(frozen=True)
class Exam:
    """The suites of one judgement; the same for everybody who is asked."""

    old: list[Suite]
    new: list[Suite]
    stale: Suite | None
    """Superseded items: the new answer is right, the old one wrong."""

    @property
    def suites(self) -> list[Suite]:
        return [*self.old, *self.new, *([self.stale] if self.stale else [])]


def set_exam(config: EvaluateConfig, home: Home, snapshot: Snapshot) -> Exam:
    """The exam of an update on `snapshot`. Raises IntegrityError for a suite that is missing or was changed."""
    gone = {(r["suite"], r["item_id"]) for r in snapshot.retired}
    live = [_without(s, gone) for s in store.live(home)]
    made: list[tuple[SuiteKind, list[EvalItem]]] = [("heldout", snapshot.heldout), ("recall", snapshot.recall)]
    new = [
        Suite(name=f"{kind}-{snapshot.id}", kind=kind, hash=store.suite_hash(items), items=items) for kind, items in made if items
    ]
    return Exam(_sampled([s for s in live if s.items], config.max_retention), new, _stale(home, snapshot))


def _without(suite: Suite, gone: set[tuple[str, str]]) -> Suite:
    return suite.model_copy(update={"items": [i for i in suite.items if (suite.name, i.id) not in gone]})


def _sampled(suites: list[Suite], most: int) -> list[Suite]:
    """At most `most` items, each suite by its share, the same items every time."""
    total = sum(len(s.items) for s in suites)
    if total <= most:
        return suites
    return [
        s.model_copy(
            update={
                "items": sorted(s.items, key=lambda i: fraction(i.id, salt="retention"))[
                    : max(1, round(len(s.items) * most / total))
                ]
            }
        )
        for s in suites
    ]


def _stale(home: Home, snapshot: Snapshot) -> Suite | None:
    """Superseded items, those of this snapshot included."""
    before = store.stale(home)
    items = {i.id: i for i in (before.items if before else [])}
    for entry in snapshot.retired:
        if entry.get("stale"):
            item = EvalItem.model_validate(entry["stale"])
            items[item.id] = item
    listed = list(items.values())
    return Suite(name=store.STALE, kind="stale", hash=store.suite_hash(listed), items=listed) if listed else None
