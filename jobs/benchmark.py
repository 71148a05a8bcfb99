"""Measure something: one of llmagentos/benchmark by name.

python jobs/benchmark.py NAME [--option key=value ...] [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    options = job.parser(__doc__)
    options.add_argument("name", help="forgetting, for instance")
    options.add_argument("--option", "-o", action="append", default=[], help="key=value of the benchmark's own")
    sys.exit(job.main(options, lambda config, given: steps.benchmark(config, given.name, given.option)))
