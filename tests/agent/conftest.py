import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from llmagentos.models.chat import CALL, Renderer
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("form") / "own"
    save_tiny(folder)
    return Renderer(folder)


@pytest.fixture(scope="module", params=["special", "plain", "text"])
def hermes(request: pytest.FixtureRequest, own: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """A tokenizer without our marker: `<tool_call>` is a special token, a token like any other, or no token."""
    folder: Path = tmp_path_factory.mktemp("form") / request.param
    folder.mkdir()
    tokenizer = Tokenizer.from_str(own.tokenizer.to_str().replace(CALL, "<|other|>"))
    tokens = [AddedToken(text, special=request.param == "special") for text in ("<tool_call>", "</tool_call>")]
    if request.param != "text":
        tokenizer.add_tokens(tokens) if request.param == "plain" else tokenizer.add_special_tokens(tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return Renderer(folder)
