"""Where an update begins: at the champion, or where that learned from a person who was erased since, before it did.

The champion serves on and is who the gate compares with; what the snapshots since taught, without the person, is taught again.
"""

import logging
from dataclasses import dataclass

from llmagentos.config import Config
from llmagentos.core.errors import IntegrityError
from llmagentos.core.records import Example, ModelVersion
from llmagentos.cycle.act import keep_known
from llmagentos.erase import erase
from llmagentos.registry.lineage import REBUILD, clean, config_hash
from llmagentos.registry.versions import Versions
from llmagentos.release.promotion import promote
from llmagentos.release.releases import Fence, Releases
from llmagentos.replay.missed import missed
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot

log = logging.getLogger(__name__)


def finish_erasures(config: Config, held: str) -> None:
    """Go on with erasures that wait. Where one fails it waits on, and nothing of that person is collected meanwhile: what
    others taught need not wait with it."""
    try:
        erase.finish(config, held)
    except Exception as error:  # noqa: BLE001  whatever is wrong there, the agent learns from the others
        log.warning("erasures wait for the next cycle: %s: %s", type(error).__name__, error)


@dataclass(frozen=True)
class Start:
    """The weights that an update begins with, and the student's."""

    agent: ModelVersion
    student: ModelVersion | None
    anew: bool = False
    """They are no longer the champion's."""

    def missed(self, home: Home, snapshot: Snapshot) -> list[Example]:
        """Rows that were taught since and must be taught again."""
        return missed(home, self.agent, snapshot) if self.anew else []


def start(home: Home, champion: ModelVersion, student: ModelVersion | None) -> Start:
    """Raises IntegrityError where no version is left that never met the person."""
    agent = clean(home, champion) if champion.tainted else champion
    if agent is None:
        raise IntegrityError(
            f"version {champion.id} is tainted, and no version before it has its weights on disk.",
            hint="Promote one that never met the person, or begin anew from model.base.",
        )
    return Start(agent, clean(home, student) if student else None, anew=agent.id != champion.id)


def owed(config: Config, home: Home, champion: ModelVersion) -> bool:
    """Whether an update is to begin anew though nothing is new: until one was judged that began there under these settings.

    One that waits for a person's approval is enough whatever the settings are; one that is tainted by now is none.
    """
    agent, last = clean(home, champion), snapshots.latest(home)
    if agent is None or agent.id == champion.id:
        return False
    said = (last.decision or {}) if last else {}
    begun, made = said.get(REBUILD, {}), said.get("challenger")
    if begun.get("start") != agent.id or (made is not None and Versions(home).get(made).tainted):
        return True
    return said["verdict"] != "Promote" and begun["settings"] != config_hash(config)


def keep(config: Config, snapshot: Snapshot, begin: Start, champion: ModelVersion, cycle: str, reason: str, fence: Fence) -> int:
    """What is known already becomes what must be kept; returns the champion.

    Where nobody but the person taught anything since a clean version, that is the champion again: at once, whatever `gate.mode`
    and the ladder ask of what is new, for it was champion before, and what takes its place must not serve longer than it has to.
    """
    keep_known(config, snapshot, begin.agent, cycle, reason)
    if begin.anew:
        why = f"version {champion.id} learned from a person who was erased, and nothing else since version {begin.agent.id}"
        promote(config, begin.agent.id, by=cycle, reason=why, force=True, fence=fence, against=champion.id)
    return Releases(Home(config.storage.root)).current().champion or champion.id
