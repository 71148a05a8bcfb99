from pathlib import Path

from llmagentos.models.chat import Renderer
from llmagentos.models.tokenizer import SPECIALS, train_tokenizer


def test_a_trained_tokenizer_reads_any_bytes_and_knows_its_own_pad(tmp_path: Path):
    train_tokenizer(["the price is 12", "价格是12元"] * 10, 320, tmp_path)
    renderer = Renderer(tmp_path)
    assert renderer.pad_id != renderer.eos_id
    assert renderer.tokenizer.token_to_id(SPECIALS[0]) == renderer.pad_id == 0
    text = "Ünïcödé 🤖 и кириллица"
    assert renderer.text(renderer._encode(text)) == text


def test_digits_stand_alone(tmp_path: Path):
    train_tokenizer(["2024 2024 2024 2024"] * 50, 320, tmp_path)
    assert len(Renderer(tmp_path)._encode("2024")) == 4
