"""What a student begins with that has no yesterday."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llmagentos.core.errors import ConfigError
from llmagentos.distill.first import first_student
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model, parameters
from tests.tiny import save_tiny

SHAPE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}
TEACHERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2)),
    "qwen": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)),
    "gpt": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=8, n_head=4, n_positions=64)),
}


def saved(folder: Path, kind: str) -> Path:
    save_tiny(folder / "tiny")
    torch.manual_seed(1)
    TEACHERS[kind]().save_pretrained(folder / "tiny")
    return folder / "tiny"


def with_depth(config, depth: float):
    return config.model_copy(update={"distill": config.distill.model_copy(update={"depth": depth})})


@pytest.mark.parametrize("kind", TEACHERS)
def test_it_is_made_of_layers_that_stand_far_apart(config, tmp_path, kind):
    teacher = saved(tmp_path, kind)
    student = first_student(with_depth(config, 0.375), teacher, tmp_path / "student")
    small, large = load_model(student), load_model(teacher)
    assert small.config.num_hidden_layers == 3
    mine, theirs = small.state_dict(), large.state_dict()
    for here, there in ((0, 0), (1, 4), (2, 7)):
        named = {n.replace(f".{there}.", f".{here}.", 1): w for n, w in theirs.items() if f".{there}." in n}
        assert named
        assert all(torch.equal(mine[name], weight) for name, weight in named.items())
    assert torch.equal(small.get_input_embeddings().weight, large.get_input_embeddings().weight)
    assert Renderer(student).hash == Renderer(teacher).hash
    assert parameters(small) < parameters(large)
    assert first_student(with_depth(config, 0.9), teacher, tmp_path / "student") == student, "what stands there is used again"


def test_one_layer_is_the_least(config, tmp_path):
    student = first_student(with_depth(config, 0.01), saved(tmp_path, "llama"), tmp_path / "student")
    assert load_model(student).config.num_hidden_layers == 1


def test_without_a_depth_it_is_of_the_size_that_is_set(config, tmp_path):
    shape = load_model(first_student(config, saved(tmp_path, "llama"), tmp_path / "student")).config
    assert (shape.hidden_size, shape.num_hidden_layers, shape.intermediate_size) == config.distill.size
    assert shape.vocab_size == Renderer(tmp_path / "tiny").vocab_size


def test_a_model_that_names_its_layers_otherwise_is_told_with_what_to_do(config, tmp_path, monkeypatch):
    teacher = saved(tmp_path, "llama")
    monkeypatch.setattr("llmagentos.distill.first._LAYER", __import__("re").compile("none of them"))
    with pytest.raises(ConfigError, match=r"no student can be made of the layers of a LlamaForCausalLM.*distill\.depth=0"):
        first_student(with_depth(config, 0.25), teacher, tmp_path / "student")
