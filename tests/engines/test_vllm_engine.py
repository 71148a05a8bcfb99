import importlib.util

import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import ConfigError
from llmagentos.core.records import VersionRef
from llmagentos.engines import load


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_message_says_how_to_get_it(tiny: VersionRef):
    with pytest.raises(ConfigError, match="llmagentos\\[vllm\\]"):
        load(tiny, EngineConfig(name="vllm"))
