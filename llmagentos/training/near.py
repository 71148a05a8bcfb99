"""Which remembered rows ask most like the new ones: there an update does most harm, so there the past is asked most.

Nearness is the tf-idf cosine of prompts over pairs of neighbouring tokens [Salton & Buckley 1988]: it needs no words, so
no language is left out, and a name that few rows share counts for more than a wording that all do.
"""

import numpy as np
import scipy.sparse as sp

from llmagentos.training.rows import Rows

_COMMON = 0.05
"""Pairs of tokens in more than this share of the remembered prompts say nothing and are left out."""
_FEW = 20
"""But none that are in no more prompts than this."""
_CHUNK = 512


def nearest(rows: Rows, new: np.ndarray, memory: np.ndarray, count: int) -> np.ndarray:
    """The indices among `memory` that are of the `count` nearest to any row of `new`; those that share nothing never are."""
    if not len(new) or not len(memory):
        return memory[:0]
    pairs = [_pairs(rows, i) for i in np.concatenate([new, memory])]
    names, columns = np.unique(np.concatenate(pairs), return_inverse=True)
    starts = np.cumsum([0, *(len(p) for p in pairs)])
    counts = sp.csr_matrix((np.ones(len(columns), dtype=np.float32), columns, starts), shape=(len(pairs), len(names)))
    asked, kept = counts[: len(new)], counts[len(new) :]
    seen = np.asarray(kept.getnnz(axis=0))
    told = (seen > 0) & (seen <= max(_FEW, _COMMON * len(memory)))
    weights = sp.diags(np.where(told, np.log(len(memory) / np.maximum(seen, 1)) + 1, 0).astype(np.float32))
    asked, kept = (_normed(m @ weights) for m in (asked, kept))
    found = [_best(asked[at : at + _CHUNK] @ kept.T, count) for at in range(0, len(new), _CHUNK)]
    return memory[np.unique(np.concatenate(found))]


def _pairs(rows: Rows, index: int) -> np.ndarray:
    """Pairs of neighbouring tokens that are not learned but asked, each once, as one number."""
    ids, mask = rows[index]
    asked = (mask[:-1] == 0) & (mask[1:] == 0)
    return np.unique((ids[:-1].astype(np.int64) << 32 | ids[1:])[asked])


def _normed(values: sp.csr_matrix) -> sp.csr_matrix:
    length = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.maximum(length, 1e-9)) @ values)


def _best(likeness: sp.csr_matrix, count: int) -> np.ndarray:
    """Columns of the `count` largest values above 0 of each row."""
    likeness.eliminate_zeros()
    found = []
    for start, end in zip(likeness.indptr[:-1], likeness.indptr[1:], strict=True):
        values, columns = likeness.data[start:end], likeness.indices[start:end]
        found.append(columns[np.argpartition(-values, count - 1)[:count]] if len(values) > count else columns)
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
