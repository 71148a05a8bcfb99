from pathlib import Path

import pytest
import torch

from llmagentos.benchmark.shapes import SHAPES, fresh, save, shape_of
from llmagentos.core.errors import ConfigError
from llmagentos.models.loading import fresh_model, load_model, load_renderer, parameters


def test_an_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="70b"):
        shape_of("70b")


@pytest.mark.parametrize(("name", "weights"), [("100m", 100e6), ("300m", 300e6), ("1b", 1e9)])
def test_a_shape_has_the_weights_that_its_name_says(name: str, weights: float):
    shape = SHAPES[name]
    with torch.device("meta"):
        sizes = (shape.vocabulary, shape.hidden, shape.layers, shape.feed_forward)
        model = fresh_model(*sizes, heads=shape.heads, key_heads=shape.key_heads, seed=0)
    head = shape.vocabulary * shape.hidden
    assert parameters(model) == pytest.approx(weights, rel=0.1)
    assert parameters(model) == pytest.approx(shape.body + head, rel=1e-3)
    assert shape.flops(10, 4, 0) == pytest.approx(6 * (10 * shape.body + 4 * head))


def test_attention_s_operations_are_those_of_its_two_products():
    """Scores and values, forward and twice backward, a multiplication and an addition each; half of them causal."""
    shape, length = SHAPES["1b"], 100
    products = 2 * 3 * 2 * length**2 / 2 * shape.hidden * shape.layers
    assert shape.flops(0, 0, length**2) == pytest.approx(products)


def test_a_saved_model_loads_and_answers(tmp_path: Path):
    save(fresh(SHAPES["tiny"], seed=0, tied=False), tmp_path / "m", "bfloat16")
    model, renderer = load_model(tmp_path / "m", "bfloat16"), load_renderer(tmp_path / "m")
    assert model.dtype == torch.bfloat16
    assert renderer.vocab_size <= model.config.vocab_size
    assert model(torch.tensor([renderer.prompt([{"role": "user", "content": "Hello"}])])).logits.isfinite().all()
