"""Step 1: collect what is new into a dataset snapshot.

python jobs/collect.py [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    sys.exit(job.main(job.parser(__doc__), lambda config, _: steps.collect(config)))
