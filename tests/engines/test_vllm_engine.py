import asyncio
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import ConfigError
from llmagentos.core.records import VersionRef
from llmagentos.engines import Sampling, TokenScore, load
from llmagentos.engines.footprint import cache_bytes, footprint
from llmagentos.engines.vllm_engine import VllmEngine, _on_gpu, _scores


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_message_says_how_to_get_it(tiny: VersionRef):
    with pytest.raises(ConfigError) as caught:
        load(tiny, EngineConfig(name="vllm"))
    assert "cluster/install_vllm.sh" in str(caught.value.hint)


def test_log_probabilities_are_read_with_the_chosen_token_whatever_its_rank():
    ranked = {5: (-0.1, 1), 6: (-2.5, 2), 9: (-7, 40)}
    known = {i: SimpleNamespace(logprob=logprob, rank=rank) for i, (logprob, rank) in ranked.items()}
    assert _scores([9], [known], 2) == (TokenScore(9, -7.0, ((5, -0.1), (6, -2.5))),)
    assert _scores([9], None, 0) == ()


def test_the_smallest_nucleus_is_one_that_vllm_takes(monkeypatch: pytest.MonkeyPatch):
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(DELTA=0, FINAL_ONLY=1), StructuredOutputsParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    engine = SimpleNamespace(renderer=SimpleNamespace(vocab_size=9, stop_ids=[1]))
    asked = [asyncio.run(VllmEngine._parameters(engine, Sampling(5, top_p=top_p), True)).top_p for top_p in (0, 0.5, 1)]
    assert asked == [pytest.approx(0, abs=1e-6), 0.5, 1]
    assert asked[0] > 0


def test_on_a_gpu_a_version_takes_what_it_needs_so_that_another_fits_beside_it(tiny: VersionRef, monkeypatch: pytest.MonkeyPatch):
    total = 1 << 30
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
    config = EngineConfig(name="vllm", num_blocks=64, page_size=16)
    asked = _on_gpu(tiny, config, "bfloat16")
    assert asked["kv_cache_memory_bytes"] == cache_bytes(Path(tiny.dir), config, "bfloat16") > 0
    assert asked["gpu_memory_utilization"] == footprint(Path(tiny.dir), config, "bfloat16") / total < 0.5
    assert asked["max_model_len"] == 64 * 16
