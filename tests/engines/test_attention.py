from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.config.sections import EngineConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import load
from llmagentos.engines.attention import NAME, attend

WIDTH = 8


class Cache:
    """A cache that holds the keys and values of every request already, the new ones included."""

    def __init__(self, window: int | None) -> None:
        self.layer_to_allocator = {3: SimpleNamespace(sliding_window=window)}

    def update(self, key_states, value_states, layer_idx, kwargs):
        return key_states, value_states


def one_by_one(query, key, value, queries: Sequence[int], keys: Sequence[int], window: int | None) -> torch.Tensor:
    """Attention as it is written in books, a request at a time: [Q, H, D]."""
    found, groups = [], query.shape[1] // key.shape[1]
    for q0, q1, k0, k1 in zip(queries, queries[1:], keys, keys[1:], strict=False):
        k, v = (x[k0:k1].repeat_interleave(groups, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[q0:q1], k) * 0.3
        behind = (torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0)) - torch.arange(k1 - k0)
        hidden = (behind < 0) | (behind >= (window or 10**6))
        found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v))
    return torch.cat(found)


@settings(deadline=None)
@given(
    requests=st.lists(st.tuples(st.just(1) | st.integers(1, 20), st.integers(0, 40)), min_size=1, max_size=6),
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    window=st.sampled_from([None, 4, 16]),
)
def test_every_request_attends_to_its_own_keys(requests, heads, window):
    """Requests are new tokens and tokens in the cache."""
    kept = [past if window is None else min(past, window - 1) for _, past in requests]
    queries, keys = [0], [0]
    for (new, _), old in zip(requests, kept, strict=True):
        queries.append(queries[-1] + new)
        keys.append(keys[-1] + old + new)
    query = torch.randn(queries[-1], heads[0], WIDTH)
    key, value = (torch.randn(keys[-1], heads[1], WIDTH) for _ in range(2))
    found, _ = attend(
        SimpleNamespace(layer_idx=3),
        *(x.transpose(0, 1)[None] for x in (query, key, value)),
        None,
        0.3,
        cache=Cache(window),
        cu_seq_lens_q=torch.tensor(queries),
        cu_seq_lens_k=torch.tensor(keys),
    )
    torch.testing.assert_close(found[0], one_by_one(query, key, value, queries, keys, window), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the library's own attention is used")
def test_the_engine_uses_it(tiny: VersionRef):
    engine = load(tiny, EngineConfig(num_blocks=8))
    assert engine._manager.model.config._attn_implementation == NAME
    engine.close()
