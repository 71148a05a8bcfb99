"""Versions of freshly initialised two-layer Llamas, for tests that need an answer but not a right one.

What keeps versions is imported where it is used: a model alone can be had where that is not installed.
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmagentos.core.records import ModelVersion
from llmagentos.models.loading import load_model
from llmagentos.models.tokenizer import train_tokenizer
from llmagentos.storage.layout import Home
from llmagentos.training.adapters import with_adapters

TEXTS = ["What does the lamp cost? It costs 12 euros.", "How long is the warranty? Two years.", "你好，价格是多少？"] * 20


def save_tiny(folder: Path, seed: int = 0, vocabulary: int = 400) -> None:
    """Save a model and its tokenizer; other seeds give other answers, another vocabulary other ids."""
    folder.mkdir(parents=True)
    train_tokenizer(TEXTS, vocabulary, folder)
    tiny_llama(seed, vocabulary).save_pretrained(folder)


def tiny_llama(seed: int = 0, vocabulary: int = 400) -> LlamaForCausalLM:
    """The model alone."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,  # tied and untrained it would repeat its last token for ever
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def add_tiny(home: Home, seed: int, **fields: object) -> ModelVersion:
    """Add a tiny model to the versions of a home."""
    from llmagentos.registry.versions import Versions

    folder = home.root / f"tiny-{seed}"
    save_tiny(folder, seed)
    return Versions(home).add(folder, move=True, **({"role": "agent"} | fields))


def save_adapter(base: str | Path, folder: Path, seed: int = 1) -> Path:
    """Save a LoRA adapter that changes the answers of the model in `base`, as PEFT does."""
    model = with_adapters(load_model(base), 4, 8.0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "lora_B" in name:
                values.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def add_adapter(home: Home, base: int, seed: int = 1) -> ModelVersion:
    """Add an adapter of a version to the versions of a home."""
    from llmagentos.release import adapters

    return adapters.add(home, save_adapter(home.version(base), home.root / f"adapter-{base}-{seed}", seed), base)
