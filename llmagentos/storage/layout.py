"""The only file that knows path names, and the one table of every store: its path, owner and eraser."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmagentos.core.errors import ConfigError
from llmagentos.core.hashing import digest
from llmagentos.storage.files import replace_text

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Store:
    """One place where state lives. `eraser` says how a person's data leaves it."""

    name: str
    path: str
    owner: str
    eraser: str


STORES: tuple[Store, ...] = (
    Store("spool", "spool", "storage/spool", "delete by id, secure_delete, checkpoint the WAL"),
    Store("interactions", "tables/interactions", "storage/flush", "delete by seq, vacuum"),
    Store("feedback", "tables/feedback", "storage/flush", "delete by seq, vacuum"),
    Store("snapshots", "tables/snapshots", "collect", "texts of the person in reasons are taken out; else ids and counts"),
    Store("snapshot_files", "snapshots", "storage/snapshots", "rewrite without the person's rows, successor recorded"),
    Store("replay", "tables/replay", "replay/buffer", "rewrite without the person's rows, vacuum"),
    Store("suites", "tables/suites", "storage/suites", "holds names and hashes only"),
    Store("suite_files", "suites", "storage/suites", "rewrite without the person's items, retire them"),
    Store("versions", "tables/versions", "registry/versions", "holds lineage only; tainted versions are marked"),
    Store("version_files", "versions", "training", "weights cannot be edited: marked, rebuilt from a clean ancestor"),
    Store("releases", "tables/releases", "release", "holds ids only"),
    Store("runs", "tables/runs", "registry/tracking", "texts of the person in errors are taken out; else ids and figures"),
    Store("run_files", "runs", "training", "delete mixes and checkpoints; take texts of the person out of reports"),
    Store("leases", "tables/leases", "storage/leases", "holds process names only"),
    Store("quarantine", "tables/quarantine", "collect", "delete by id, vacuum"),
    Store("erasures", "tables/erasures", "erase", "holds a salted hash of the person's id"),
    Store("keys", "keys", "serve/keys", "holds names, salted hashes of keys, and the salt of erased persons' hashes"),
    Store("reports", "reports", "evaluate, cycle", "texts of the person are taken out; else ids of items and figures"),
    Store("caches", "caches", "training, evaluate", "delete whole: it can be computed again"),
    Store("mlflow", "mlflow", "registry", "delete traces by interaction id; else figures, pictures and ids only"),
    Store("local", "local", "local", "process ids; the person's ids are written over in logs"),
    Store("served", "served", "serve", "holds which replica serves which version, and its figures"),
)


class Home:
    """The root folder and the names in it. Creating one makes the folder and checks its schema version."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()

    @property
    def begun(self) -> bool:
        """Whether anything was written here: to look at a home makes none. Raises ConfigError as `marker` does."""
        return self.marker() is not None

    def marker(self) -> str | None:
        """What the root says of its schema; None where nothing was written yet. Raises ConfigError where that cannot be read, and
        where no home can be."""
        marker = self.root / "schema_version"
        try:
            return marker.read_text("utf-8")
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise self._nowhere(error) from None
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(marker, getattr(error, "strerror", None) or "it is no text") from None

    def open(self) -> "Home":
        """Create what is missing, for this user's eyes alone. Raises ConfigError for a home written by a newer release, and for
        a path where none can be."""
        marker = self.root / "schema_version"
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.marker() is None:
                replace_text(marker, json.dumps({"schema_version": SCHEMA_VERSION}))
        except OSError as error:
            raise self._nowhere(error) from error
        try:
            found = int(json.loads(self.marker() or "")["schema_version"])
        except (ValueError, KeyError, TypeError):
            raise _unreadable(marker, "it holds no schema_version") from None
        if found > SCHEMA_VERSION:
            raise ConfigError(
                f"{self.root} was written by a newer release (schema {found}, this one reads {SCHEMA_VERSION}).",
                hint="Upgrade llmagentos, or use another LLMAGENTOS_HOME.",
            )
        return self

    def _nowhere(self, error: OSError) -> ConfigError:
        reason = error.strerror or error
        return ConfigError(f"{self.root} cannot be a home: {reason}.", hint="Set LLMAGENTOS_HOME to a folder of your own.")

    def table(self, name: str) -> Path:
        return self.root / "tables" / name

    @property
    def spool(self) -> Path:
        return self.root / "spool" / "spool.db"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    def snapshot(self, snapshot_id: str) -> Path:
        return self.snapshots / snapshot_id

    @property
    def suites(self) -> Path:
        return self.root / "suites"

    @property
    def versions(self) -> Path:
        return self.root / "versions"

    def version(self, version_id: int) -> Path:
        return self.versions / str(version_id)

    def run(self, run_id: str) -> Path:
        """Folder of one run: resolved config, mix, checkpoints, metrics.jsonl, pictures."""
        return self.root / "runs" / run_id

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def outcomes(self, version_id: int) -> Path:
        """Which items of the suites a version answered rightly."""
        return self.reports / "outcomes" / f"{version_id}.json"

    def cache(self, kind: str, key: str) -> Path:
        return self.root / "caches" / kind / key

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def local(self) -> Path:
        """Process file, ports and logs of what `up` started."""
        return self.root / "local"

    @property
    def keys(self) -> Path:
        """The API keys, for their user's eyes only."""
        return self.root / "keys"

    @property
    def forks(self) -> Path:
        """The fork server's socket, of which the path must be short: this user's, and outside the home."""
        name = digest([os.getuid(), str(self.root)], length=10)
        return Path(tempfile.gettempdir()) / f"llmagentos-forks-{name}"

    @property
    def served(self) -> Path:
        """Small files of each replica: the version and epoch it serves, its figures."""
        return self.root / "served"


def _unreadable(marker: Path, reason: str) -> ConfigError:
    return ConfigError(f"{marker} is unreadable: {reason}.", hint="Restore it, or use another LLMAGENTOS_HOME.")
