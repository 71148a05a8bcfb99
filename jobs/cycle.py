"""The whole walk once: collect, update, distill, evaluate, decide, release.

python jobs/cycle.py [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    sys.exit(job.main(job.parser(__doc__), lambda config, _: steps.cycle(config)))
