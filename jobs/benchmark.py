"""Measure something: one of llmagentos/benchmark by name.

python jobs/benchmark.py NAME [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    options = job.parser(__doc__)
    options.add_argument("name", help="loop, for instance")
    sys.exit(job.main(options, lambda config, given: steps.benchmark(config, given.name)))
