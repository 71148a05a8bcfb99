"""The sides compared do the same work: the same rows, the same loss."""

from pathlib import Path

import pytest

from llmagentos.benchmark import training
from llmagentos.benchmark.training import PAIRS, QUESTIONS, measure, run
from llmagentos.benchmark.training_rows import Setting, prepare
from llmagentos.config import Config


def test_what_it_says_is_complete(config: Config):
    said = run(config, steps=1, rounds=2, memory=False)
    assert said["rows"]["mean_to_longest"] <= 0.45
    assert said["rows"]["kind"] == QUESTIONS
    assert set(said["tokens_per_second"]) == {"engine", "plain", "trainer", "kd", "ce"}
    for pair in PAIRS:
        assert 0 < said["ratio"][pair]["lowest"] <= said["ratio"][pair]["median"] <= said["ratio"][pair]["highest"]


def test_at_a_shape_too(config: Config, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    settings = config.training.model_copy(update={"packing": "packed", "precision": "bf16", "batch_tokens": 1024})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # DeepSpeed has a test of its own
    made = config.model_copy(update={"training": settings})
    said = run(made, steps=1, rounds=2, shape="tiny", longest=256, say=lines.append)
    assert said["failed"] == {}
    assert set(said["ratio"]) == set(PAIRS)
    assert said["rows"]["tokens_longest"] == 256
    assert said["rows"]["mean_to_longest"] <= 0.45
    assert said["precision"] == "bf16"
    assert len(lines) == 1 + len(PAIRS)


def test_a_side_that_does_not_fit_is_named_and_the_others_go_on(config: Config, monkeypatch: pytest.MonkeyPatch):
    def full(setting: Setting) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setitem(training.SIDES, "plain", full)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = run(config, steps=1, rounds=2, shape="tiny", longest=128)
    assert said["failed"] == {"engine/plain": "RuntimeError: CUDA out of memory"}
    assert set(said["ratio"]) == set(PAIRS) - {"engine/plain"}


def test_our_two_engines_train_on_the_same_tokens(tmp_path: Path):
    setting = Setting(str(tmp_path), steps=1, rounds=3, threads=1, batch_tokens=512, packing="packed", shape="tiny", longest=64)
    prepare(setting)
    rates = measure(setting, ("engine", "deepspeed"))
    assert [len(found) for found in rates.values()] == [2, 2]


@pytest.mark.gpu
def test_on_a_gpu_flash_and_masks_compare_and_memory_is_told(config: Config):
    wanted = {"packing": "packed", "precision": "bf16", "batch_tokens": 4096, "compile": True}
    settings = config.training.model_copy(update=wanted)
    said = run(config.model_copy(update={"training": settings}), steps=1, rounds=2, shape="100m", longest=512)
    assert said["failed"] == {}
    assert {"flash/masked", "compiled/eager"} <= said["ratio"].keys()
    assert all(said["peak_gpu_mib"][side] > 500 for side in ("engine", "plain", "masked", "eager", "trainer"))
    assert 0 < said["mfu"]["engine"] < 1
