"""Any Hugging Face causal LM is served: other architectures answer through the engine as they do through generate()."""

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmagentos.config.sections import EngineConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import Sampling, load
from llmagentos.engines.batch import generate_greedy
from llmagentos.models.loading import load_model
from llmagentos.models.tokenizer import train_tokenizer
from llmagentos.storage.manifest import write_manifest
from tests.tiny import TEXTS

_SMALL = {
    "vocab_size": 400,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("qwen3", {}), ("gemma", {}), ("gemma3_text", {}), ("gemma3_text", {"sliding_window": 16, "num_hidden_layers": 6})],
)
def test_another_architecture(tmp_path: Path, kind: str, fields: dict):
    folder = tmp_path / "1"
    folder.mkdir()
    train_tokenizer(TEXTS, 400, folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(_SMALL | fields))).save_pretrained(folder)
    ref = VersionRef(id=1, dir=str(folder), manifest_hash=write_manifest(folder))
    engine = load(ref, EngineConfig(num_blocks=32, page_size=32, max_batch_tokens=64))
    prompts = [engine.renderer.prompt([{"role": "user", "content": q}]) for q in ("What?", "你好" * 20, "x")]

    async def answer(ids: list[int]) -> list[int]:
        return [i async for chunk in engine.generate("r", ids, Sampling(12)) for i in chunk.ids]

    async def together() -> list[list[int]]:
        return await asyncio.gather(*map(answer, prompts))

    try:
        served = asyncio.run(together())
    finally:
        engine.close()
    stops, model = sorted(engine.renderer.stop_ids), load_model(folder)
    plain = [
        model.generate(torch.tensor([p]), max_new_tokens=12, do_sample=False, eos_token_id=stops)[0, len(p) :].tolist()
        for p in prompts
    ]
    assert served == plain
    batched = generate_greedy(model, prompts, stop_ids=stops, pad_id=0, max_new_tokens=12, batch_tokens=1000)
    assert batched == plain
