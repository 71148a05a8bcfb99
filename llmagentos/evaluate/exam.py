"""What an update is asked: live items of earlier increments, what this one was to teach, and what it superseded.

An old question counts once, however many days asked it. Where all are too many, the suites that a person or the seed
gave stay whole as far as they fit into half of the room, so that the days, which only become more, don't crowd them out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llmagentos.config.sections import EvaluateConfig
from llmagentos.core.evaluation import GIVEN, EvalItem, Suite, SuiteKind
from llmagentos.core.hashing import fraction
from llmagentos.replay.selection import quotas
from llmagentos.storage import suites as store
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot


@dataclass(frozen=True)
class Exam:
    """The suites of one judgement, set before anything is trained; the same for everybody who is asked."""

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
    live = _once([_keeping(s, {i.id for i in s.items if (s.name, i.id) not in gone}) for s in store.live(home)])
    made: list[tuple[SuiteKind, list[EvalItem]]] = [("heldout", snapshot.heldout), ("recall", snapshot.recall)]
    new = [
        Suite(name=f"{kind}-{snapshot.id}", kind=kind, hash=store.suite_hash(items), items=items) for kind, items in made if items
    ]
    return Exam(_sampled([s for s in live if s.items], config.max_retention), new, _stale(home, snapshot, gone))


def _keeping(suite: Suite, ids: Collection[str]) -> Suite:
    return suite.model_copy(update={"items": [i for i in suite.items if i.id in ids]})


def _once(suites: Sequence[Suite]) -> list[Suite]:
    """One copy of each question with its newest right answer, in a given suite before a day's, in an older before a newer."""
    asked = {(s.name, i.id): (i.question, i.answer) for s in suites for i in s.items}
    newest = dict(asked[s.name, i.id] for s in sorted(suites, key=lambda s: s.order) for i in s.items)
    holder: dict[str, tuple[str, str]] = {}
    for suite in sorted(suites, key=lambda s: (s.kind not in GIVEN, s.order)):
        for item in suite.items:
            question, answer = asked[suite.name, item.id]
            if answer == newest[question]:
                holder.setdefault(question, (suite.name, item.id))
    kept = set(holder.values())
    return [_keeping(s, {i.id for i in s.items if (s.name, i.id) in kept}) for s in suites]


def _sampled(suites: list[Suite], most: int) -> list[Suite]:
    """About `most` items, the same ones every time: given suites first, then each day's suite by its share of the rest."""
    given = {s.name: len(s.items) for s in suites if s.kind in GIVEN}
    days = {s.name: len(s.items) for s in suites if s.kind not in GIVEN}
    total = sum(days.values())
    if sum(given.values()) + total <= most:
        return suites
    room = quotas(given, max(most // 2, most - total))
    left = most - sum(room.values())
    room |= {name: min(n, max(1, round(n * left / total))) for name, n in days.items()}
    return [_sample(s, room[s.name]) for s in suites]


def _sample(suite: Suite, size: int) -> Suite:
    ranked = sorted(suite.items, key=lambda i: fraction(i.id, salt="retention"))
    return _keeping(suite, {i.id for i in ranked[:size]})


def _stale(home: Home, snapshot: Snapshot, gone: Collection[tuple[str, str]]) -> Suite | None:
    """Superseded items, those of this snapshot included."""
    fresh = (EvalItem.model_validate(entry["stale"]) for entry in snapshot.retired if entry.get("stale"))
    return store.stale(home, fresh, gone=gone)
