"""Where the weights lie that answer as a version: its own folder, or an adapter's base with the adapter merged in.

The merge happens once, in float32 and checked, into a cache that holds a manifest like a version; so an engine knows
nothing of adapters. A cached merge that was damaged is made anew.
"""

import shutil
import uuid
from pathlib import Path

from llmagentos.core.errors import InputError, IntegrityError, NotFoundError, TrainingError
from llmagentos.core.hashing import digest
from llmagentos.core.records import ModelVersion, VersionRef
from llmagentos.engines.apart import beside
from llmagentos.registry.versions import MERGED, Versions
from llmagentos.storage.manifest import verify, write_manifest
from llmagentos.storage.spool import exclusive


def base_of(versions: Versions, version: ModelVersion) -> ModelVersion:
    """The version whose size an engine of `version` has. Raises NotFoundError where weights are no longer on disk."""
    for one in (version.id, version.base):
        if one is not None and not versions.has_weights(one):
            raise NotFoundError(f"the weights of version {one} are no longer on disk.")
    return version if version.base is None else versions.get(version.base)


def servable(versions: Versions, version: ModelVersion) -> VersionRef:
    """What an engine loads for a version. Raises NotFoundError, and IntegrityError for an adapter that cannot be merged."""
    base = base_of(versions, version)
    if version.base is None:
        return version.ref()
    name = f"{version.id}-{digest([base.manifest_hash, version.manifest_hash], length=16)}"
    folder = versions.home.cache(MERGED, name)
    found = _whole(folder)
    if found is None:
        with exclusive(folder.with_name(".lock")):  # else who comes second could take it from under the first one's engine
            found = _whole(folder) or _merge(base, version, folder)
    return VersionRef(id=version.id, dir=str(folder), manifest_hash=found)


def _whole(folder: Path) -> str | None:
    """The hash of what is cached, None where it is missing or damaged."""
    try:
        return str(verify(folder)["hash"])
    except IntegrityError:
        return None


def _merge(base: ModelVersion, adapter: ModelVersion, folder: Path) -> str:
    for one in (base, adapter):
        verify(Path(one.dir), one.manifest_hash)
    shutil.rmtree(folder, ignore_errors=True)
    staged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    staged.mkdir(parents=True)
    try:
        beside("llmagentos.training.adapters:save_merged", base.dir, adapter.dir, staged)
        made = write_manifest(staged, kind="merged", base=base.id, adapter=adapter.id)
        staged.rename(folder)
    except (InputError, TrainingError) as error:
        raise IntegrityError(f"adapter {adapter.id} cannot be put on version {base.id}: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return made
