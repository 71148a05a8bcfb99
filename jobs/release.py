"""Move traffic to a version, or back to the one before.

python jobs/release.py [--version V | --rollback] [--force] [--reason TEXT] [--config FILE] [section.key=value ...]
"""

import argparse
import sys
from typing import Any

from llmagentos.config import Config
from llmagentos.local import job, steps


def run(config: Config, given: argparse.Namespace) -> dict[str, Any]:
    if given.rollback:
        return steps.rollback(config, reason=given.reason)
    return steps.release(config, given.version, force=given.force, reason=given.reason)


if __name__ == "__main__":
    options = job.parser(__doc__)
    options.add_argument("--version", default="challenger", help="number or alias")
    options.add_argument("--rollback", action="store_true", help="go back to the champion before")
    options.add_argument("--force", action="store_true", help="even if the gate rejected it")
    options.add_argument("--reason", default="", help="kept with the release")
    sys.exit(job.main(options, run))
