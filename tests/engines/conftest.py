from pathlib import Path

import pytest

from llmagentos.core.records import VersionRef
from llmagentos.storage.manifest import write_manifest
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VersionRef:
    folder: Path = tmp_path_factory.mktemp("tiny") / "1"
    save_tiny(folder)
    return VersionRef(id=1, manifest_hash=write_manifest(folder), dir=str(folder))
