"""Step 2: train a challenger on the newest snapshot.

python jobs/update.py [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    sys.exit(job.main(job.parser(__doc__), lambda config, _: steps.update(config)))
