"""End exactly what `up` of this home started, and whatever such a process left behind."""

import shutil
from typing import Any

from llmagentos.config import Config
from llmagentos.local import processes
from llmagentos.storage.layout import Home


def down(config: Config) -> dict[str, Any]:
    """End the processes of this home. Returns {"stopped": [names], "ended": n, "killed": n}; safe to repeat.

    Raises ConfigError where no home can be.
    """
    from llmagentos.local.up import temp_dir

    home = Home(config.storage.root)
    known = processes.read(home)
    roots = known.alive() if known else []
    if known is None:
        home.marker()
    else:  # whoever watches them is to see that they are ended, not that they end
        processes.write(home, known.model_copy(update={"ready": False}))
    # Ray first: its replicas flush what they hold while everything else still stands
    counts = processes.end(home, sorted(roots, key=lambda one: one.name != "ray"))
    for folder in (temp_dir(home), home.forks):
        shutil.rmtree(folder, ignore_errors=True)
    processes.path(home).unlink(missing_ok=True)
    for replica in home.served.glob("*.json") if home.served.is_dir() else []:
        replica.unlink(missing_ok=True)
    return {"stopped": [one.name for one in roots], **counts}
