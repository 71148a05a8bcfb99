"""Step 4: a version's accuracy on the suites of the home, or on a file.

python jobs/evaluate.py [--suite FILE] [--version V] [--rows] [--register NAME] [--config FILE] [section.key=value ...]
"""

import sys

from llmagentos.local import job, steps

if __name__ == "__main__":
    options = job.parser(__doc__)
    options.add_argument("--suite", help="JSONL file in the row format")
    options.add_argument("--version", default="champion", help="number or alias")
    options.add_argument("--rows", action="store_true", help="answers too")
    options.add_argument("--register", metavar="NAME", help="keep the suite for the gate")
    sys.exit(
        job.main(
            options,
            lambda config, given: steps.evaluate(
                config, suite=given.suite, version=given.version, rows=given.rows, register=given.register
            ),
        )
    )
