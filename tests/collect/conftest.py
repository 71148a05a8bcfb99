"""Homes with a tokenizer as their base model: collecting renders rows but loads no weights."""

import json

import pytest

from llmagentos.config import load_config
from llmagentos.models.tokenizer import train_tokenizer

TEXTS = ["What does the lamp cost? It costs 12 euros.", "How long is the warranty? Two years.", "台灯的价格是多少？"] * 20


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    folder.mkdir()
    train_tokenizer(TEXTS, 400, folder)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def config(tmp_path, base):
    return load_config(overrides=[f"storage.root={tmp_path / 'home'}", f"model.base={base}"], environment={})


@pytest.fixture
def write(tmp_path):
    """Write rows as a JSONL file and give its path."""

    def write_rows(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return path

    return write_rows
