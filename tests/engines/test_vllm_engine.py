import importlib.util
from types import SimpleNamespace

import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import ConfigError
from llmagentos.core.records import VersionRef
from llmagentos.engines import TokenScore, load
from llmagentos.engines.vllm_engine import _scores


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
