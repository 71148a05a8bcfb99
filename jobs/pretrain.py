"""Train the seed model and its student from nothing, reproducibly.

python jobs/pretrain.py --out FOLDER [--seed N] [--recipe hidden=80 ...] [--config FILE] [section.key=value ...]
"""

import sys
from pathlib import Path

from llmagentos.local import job, steps

if __name__ == "__main__":
    options = job.parser(__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder for agent/, student/, suites/ and memory")
    options.add_argument("--seed", type=int, help="of weights, rows and their order")
    options.add_argument("--recipe", action="append", default=[], help="another of PretrainRecipe's fields, name=value")
    sys.exit(job.main(options, lambda config, given: steps.pretrain(config, given.out, given.seed, given.recipe)))
