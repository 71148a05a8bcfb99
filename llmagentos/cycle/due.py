"""Whether a cycle is due: what waits in the log and what the last cycle warned of, for the rule in update/trigger.py.

While a challenger is on trial none is: its rows are decided on when the trial ends, and the next one builds on it.
"""

import time
from collections.abc import Mapping

import pyarrow.compute as pc
import pyarrow.dataset as ds

from llmagentos.config import Config
from llmagentos.core.messages import JUDGEMENTS
from llmagentos.cycle.rebuild import owed
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions
from llmagentos.release.ladder import on_trial
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.flush import TABLES, flush
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import maintain
from llmagentos.storage.tables import Tables
from llmagentos.update.trigger import TriggerFacts, Wait, decide

ALARMS = ("drift_alarm", "shift_alarm")
"""Tags of an evaluate run that hold a warning."""


def not_due(config: Config, home: Home) -> str | None:
    """Why no cycle is to run now; None where one is due, or is to be run again, or `trigger.mode` never asks and nothing is
    on trial."""
    if trial := on_trial(config):
        return trial
    if config.trigger.mode == "always":
        return None
    flush(home)
    maintain(home, TABLES.values())  # nobody else does where no cycle is due and nothing serves
    last, champion = snapshots.latest(home), Versions(home).serving(Releases(home).current().champion)
    if (last is not None and last.is_open) or (champion is not None and owed(config, home, champion)):
        return None
    answer = decide(gather(config, home, time.time()), config.trigger)
    return answer.reason if isinstance(answer, Wait) else None


def gather(config: Config, home: Home, now: float) -> TriggerFacts:
    """Rows to train on that no snapshot holds (imports, and served answers that were judged), their age, and alarms."""
    runs = tracking.runs(home).values()
    looked = [r.metrics for r in runs if r.kind == "collect" and r.status == "skipped"]
    waiting = _waiting(home, looked[-1] if looked else {})
    ages = [now - created for created, _ in waiting]
    cycles = [r.created for r in runs if r.kind == "cycle" and r.status in ("finished", "skipped")]
    judged = [r for r in runs if r.kind == "evaluate" and r.status == "finished"]
    return TriggerFacts(
        new_rows=len(ages),
        oldest_hours=max(ages, default=0.0) / 3600,
        fresh=any(fresh for _, fresh in waiting),
        since_cycle_hours=(now - cycles[-1]) / 3600 if cycles else None,
        alarms=tuple(judged[-1].tags[name] for name in ALARMS if name in judged[-1].tags) if judged else (),
        least_rows=config.collect.min_rows,
    )


def reached(home: Home) -> dict[str, float]:
    """How far the log goes: figures of a collect run, by which what came later is told from what it could not take."""
    return {f"{table}_seq": float(Tables(home).last_seq(table)) for table in TABLES.values()}


def _waiting(home: Home, looked: Mapping[str, float]) -> list[tuple[float, bool]]:
    """When each of the waiting rows was made (those behind the watermark, and older ones judged since), and whether it or a
    judgement of it came after what a collect had `looked` at."""
    tables, taken = Tables(home), snapshots.history(home)
    interactions = max((row.interactions_seq for row in taken), default=0)
    feedback = max((row.feedback_seq for row in taken), default=0)
    seq, tier = ds.field("seq"), ds.field("tier")
    judges = ds.field("name").isin(JUDGEMENTS) | ds.field("correction").is_valid()
    judged = tables.read("feedback", columns=["seq", "interaction_seq"], where=(seq > feedback) & judges)
    about = pc.unique(judged.column("interaction_seq").combine_chunks().drop_null())
    wanted = ((seq > interactions) & (tier == "import")) | seq.isin(about)
    rows = tables.read("interactions", columns=["seq", "created"], where=wanted).to_pylist()
    late = {j["interaction_seq"] for j in judged.to_pylist() if j["seq"] > looked.get("feedback_seq", -1)}
    return [(float(r["created"]), r["seq"] > looked.get("interactions_seq", -1) or r["seq"] in late) for r in rows]
