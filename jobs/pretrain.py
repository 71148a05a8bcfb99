"""Train the seed model and its student from nothing, reproducibly.

python jobs/pretrain.py --out FOLDER [--seed N] [--config FILE] [section.key=value ...]
"""

import sys
from pathlib import Path

from llmagentos.local import job, steps

if __name__ == "__main__":
    options = job.parser(__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder for agent/, student/, suites/ and memory")
    options.add_argument("--seed", type=int, help="of weights, rows and their order")
    sys.exit(job.main(options, lambda config, given: steps.pretrain(config, given.out, given.seed)))
