"""Log-probabilities that outlive a run: what was first said about a row is kept for ever and never asked again.

A folder of immutable Arrow files, one a run that met unknown rows. Rows are known by their id and token ids, since other
tokens would want other answers. After the folder is erased, the next model that is asked is the first.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmagentos.training.rows import Rows, open_arrow, write_arrow

VALUES = [("ids", pa.list_(pa.int32())), ("logps", pa.list_(pa.float32())), ("targets", pa.list_(pa.float32()))]
CACHE = pa.schema([("row", pa.int32()), *VALUES])
STORED = pa.schema([("key", pa.string()), *VALUES])


class Stored:
    """What is known, under one folder, about the rows of one file."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        self._folder, self._rows = folder, rows
        self._files = sorted(folder.glob("*.arrow"))

    def read(self, indices: np.ndarray) -> pa.Table:
        """What is known about the rows `indices`: row, ids, logps, targets."""
        left = {int(i): self._rows.key(int(i)) for i in indices}
        found = []
        for file in self._files:
            table = open_arrow(file)
            at = {key: k for k, key in enumerate(table.column("key").to_pylist())}
            here = {row: at[key] for row, key in left.items() if key in at}
            left = {row: key for row, key in left.items() if row not in here}
            taken = table.drop_columns("key").take(pa.array(here.values(), pa.int64()))
            found.append(taken.add_column(0, CACHE.field("row"), pa.array(here, pa.int32())))
        return pa.concat_tables(found) if found else CACHE.empty_table()

    def keep(self, answers: Sequence[pa.RecordBatch]) -> None:
        """Add answers about rows that were not known: row, ids, logps, targets."""
        table = pa.Table.from_batches(answers, CACHE)
        table = table.filter(pa.array(~self._rows.made[table.column("row").to_numpy()]))  # made ones do not come again
        if not table.num_rows:
            return
        keys = pa.array([self._rows.key(i) for i in table.column("row").to_pylist()], pa.string())
        made = table.drop_columns("row").add_column(0, STORED.field("key"), keys)
        write_arrow(self._folder / f"{len(self._files):06d}.arrow", made.to_batches(), STORED)
