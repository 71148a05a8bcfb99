"""Step 3: distil a student from the newest version.

python jobs/distill.py [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    sys.exit(job.main(job.parser(__doc__), lambda config, _: steps.distill(config)))
