"""One rank of a phase: DeepSpeed equals PyTorch, and kill -9 costs nothing but time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmagentos.core.errors import ConfigError
from llmagentos.training.checkpoint import newest
from llmagentos.training.compiled import can_compile
from llmagentos.training.phase import Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import Plan, Rows
from llmagentos.training.worker import make_terms, run_phase
from tests.tiny import save_tiny
from tests.training.test_plan import write_rows


def prepare(folder: Path, name: str, **fields: object) -> Phase:
    """A phase over a shared tiny model and shared rows."""
    if not (folder / "base").exists():
        save_tiny(folder / "base")
        write_rows(folder / "rows.arrow", {"new": 40, "memory": 40})
    ranks = int(fields.pop("ranks", 1))
    accumulation = int(fields.get("accumulation", 1))
    recipe = Recipe(
        {"new": 0.6, "memory": 0.4}, epochs=10, batch_tokens=256, max_steps=24, ranks=ranks, accumulation=accumulation,
        packed=fields.get("packing") == "packed",
    )  # fmt: skip
    make_plan(Rows(folder / "rows.arrow"), recipe, folder / f"{name}.plan")
    made = {
        "name": name, "init": str(folder / "base"), "out": str(folder / name / "out"), "run_dir": str(folder / name),
        "rows": str(folder / "rows.arrow"), "plan": str(folder / f"{name}.plan"), "terms": {"next_token": {}},
        "learning_rate": 1e-3, "engine": "torch", "checkpoint_steps": 4, "noise": 0.06,
    }  # fmt: skip
    return Phase.model_validate({**made, **fields})


def weights(phase: Phase) -> dict[str, torch.Tensor]:
    return load_file(Path(phase.out) / "model.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def logged(phase: Phase, figure: str) -> list[float]:
    """A figure of the steps that have it, in their order."""
    lines = map(json.loads, (Path(phase.run_dir) / "metrics.jsonl").read_text().splitlines())
    return [line[figure] for line in lines if figure in line]


def norms(phase: Phase) -> list[float]:
    """Gradient norms: what the optimiser was given, which Adam and clipping hide from the weights."""
    return logged(phase, "grad_norm")


def test_the_share_of_each_source_is_told_of_every_step(tmp_path: Path):
    phase = prepare(tmp_path, "a")
    plan, rows = Plan(phase.plan), Rows(phase.rows)
    run_phase(phase)
    assert len(logged(phase, "loss")) < plan.steps == len(logged(phase, "share/new")), "all else of every tenth"
    for source in ("new", "memory"):
        assert logged(phase, f"share/{source}") == [round(of[source], 4) for of in plan.shares(rows) if source in of]


def test_deepspeed_outside_ray_trains_as_plain_pytorch_does(tmp_path: Path):
    both = {"next_token": {}, "l2_anchor": {"weight": 20.0}}
    plain = prepare(tmp_path, "plain", accumulation=2, terms=both)
    deep = prepare(tmp_path, "deep", accumulation=2, terms=both, engine="deepspeed", zero_stage=2)
    run_phase(plain)
    run_phase(deep)
    assert norms(deep) == pytest.approx(norms(plain), rel=1e-3)
    assert_same(weights(plain), weights(deep), 1e-4)


def test_packed_deepspeed_trains_as_packed_pytorch_and_as_the_padded_does_on_one_plan(tmp_path: Path):
    plain = prepare(tmp_path, "plain", accumulation=2, packing="packed")
    deep = prepare(tmp_path, "deep", accumulation=2, packing="packed", engine="deepspeed")
    padded = plain.model_copy(update={"name": "padded", "packing": "bucketed"})
    padded = padded.model_copy(update={"out": str(tmp_path / "padded" / "out"), "run_dir": str(tmp_path / "padded")})
    for phase in (plain, deep, padded):
        run_phase(phase)
    assert_same(weights(plain), weights(deep), 1e-4)
    assert_same(weights(plain), weights(padded), 1e-3)


@pytest.mark.parametrize("fields", [{"engine": "torch", "precision": "bf16"}, {"engine": "deepspeed", "zero_stage": 3}])
def test_adapters_of_any_engine_and_precision_are_merged_into_the_base(tmp_path: Path, fields: dict[str, object]):
    phase = prepare(tmp_path, "lora", lora_rank=4, learning_rate=1e-2, **fields)
    run_phase(phase)
    before, after = load_file(tmp_path / "base" / "model.safetensors"), weights(phase)
    assert {str(w.dtype) for w in after.values()} == {"torch.float32"}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)


def test_a_training_killed_with_kill_9_goes_on_where_it_was(tmp_path: Path):
    whole, cut = prepare(tmp_path, "whole"), prepare(tmp_path, "cut")
    run_phase(whole)
    code = (
        "import sys, time\nfrom llmagentos.training.phase import Phase\nfrom llmagentos.training.worker import run_phase\n"
        "def slow(p):\n    time.sleep(0.3)\n"
        "run_phase(Phase.model_validate_json(sys.argv[1]), report=slow)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, cut.model_copy(update={"checkpoint_steps": 2}).model_dump_json()])
    deadline = time.monotonic() + 120
    while newest(tmp_path / "cut" / "checkpoints") is None:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not Path(cut.out).exists()
    facts = run_phase(cut)
    assert facts["resumed_at"] >= 2
    assert_same(weights(whole), weights(cut))


def test_what_dropout_draws_in_a_step_does_not_depend_on_where_the_training_began(tmp_path: Path):
    whole, cut = prepare(tmp_path, "whole"), prepare(tmp_path, "cut")
    described = tmp_path / "base" / "config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"attention_dropout": 0.3}))

    def stop(progress):
        if progress.step == 10:
            raise KeyboardInterrupt

    facts = run_phase(whole)
    with pytest.raises(KeyboardInterrupt):
        run_phase(cut, report=stop)
    found = run_phase(cut)
    assert (found["resumed_at"], found["tokens"]) == (8, facts["tokens"])
    assert_same(weights(whole), weights(cut))


def test_deepspeed_compiles_nothing_for_a_cpu_and_does_not_load_mlflow(tmp_path: Path):
    phase = prepare(tmp_path, "a", engine="deepspeed")
    code = (
        "import sys\nfrom llmagentos.training.worker import Phase, run_phase\n"
        "run_phase(Phase.model_validate_json(sys.argv[1]))\n"
        "assert 'mlflow' not in sys.modules\n"
        "import mlflow\nmlflow.active_run"
    )
    built = tmp_path / "extensions"
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(built)}
    done = subprocess.run([sys.executable, "-c", code, phase.model_dump_json()], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert weights(phase)
    assert not list(built.rglob("*"))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path):
    phase = prepare(tmp_path, "a")
    run_phase(phase)
    found = newest(tmp_path / "a" / "checkpoints")
    assert found is not None
    state = found[0] / "model.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\xff")
    assert newest(tmp_path / "a" / "checkpoints") is None


def test_adapters_are_merged_into_weights_of_the_same_shape(tmp_path: Path):
    phase = prepare(tmp_path, "lora", lora_rank=4, learning_rate=1e-2)
    run_phase(phase)
    before, after = load_file(tmp_path / "base" / "model.safetensors"), weights(phase)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)


@pytest.mark.parametrize("term", ["l2_anchor", "ewc"])
def test_a_penalty_on_weights_is_refused_where_no_rank_has_them_whole(tmp_path: Path, term: str):
    phase = prepare(tmp_path, "a", terms={"next_token": {}, term: {}}, engine="deepspeed", zero_stage=3)
    with pytest.raises(ConfigError, match="zero_stage=3 no rank has a whole"):
        run_phase(phase)


def test_an_unknown_term_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="next_token"):
        make_terms({"magic": {}})


def losses(phase: Phase) -> list[float]:
    return logged(phase, "loss")


@pytest.mark.gpu
@pytest.mark.parametrize("packing", ["bucketed", "packed"])
@pytest.mark.parametrize("rank", [0, 4])
def test_on_a_gpu_a_phase_in_bf16_learns(tmp_path: Path, packing: str, rank: int):
    phase = prepare(
        tmp_path, "a", packing=packing, precision="bf16", lora_rank=rank, learning_rate=5e-3, ema=0.9 if not rank else 0
    )
    run_phase(phase)
    found = losses(phase)
    assert found[-1] < 0.7 * found[0]
    before, after = load_file(tmp_path / "base" / "model.safetensors"), weights(phase)
    assert sum(not torch.equal(before[name].float(), after[name].float()) for name in before) > 5


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [0, 2])
def test_on_a_gpu_deepspeed_begins_as_plain_pytorch_does(tmp_path: Path, stage: int):
    pytest.importorskip("deepspeed")
    fields = {"packing": "packed", "precision": "bf16", "accumulation": 2}
    plain = prepare(tmp_path, "plain", **fields)
    deep = prepare(tmp_path, "deep", engine="deepspeed", zero_stage=stage, **fields)
    for phase in (plain, deep):
        run_phase(phase)
    assert losses(deep)[0] == pytest.approx(losses(plain)[0], rel=0.01)
    assert losses(deep) == pytest.approx(losses(plain), rel=0.1)  # without ZeRO its Adam counts from a step before the first
    assert norms(deep)[0] == pytest.approx(norms(plain)[0], rel=0.05)


@pytest.mark.gpu
def test_on_a_gpu_a_phase_goes_on_from_its_checkpoint(tmp_path: Path):
    phase = prepare(tmp_path, "a", precision="bf16", packing="packed")
    run_phase(phase)
    resumed = run_phase(phase)
    assert resumed["resumed_at"] >= 4


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="compiling for a CPU needs a C++ compiler: install g++")
def test_compiled_layers_learn_the_same_on_a_cpu(tmp_path: Path):
    eager, compiled = (prepare(tmp_path, name, compile=name == "compiled") for name in ("eager", "compiled"))
    for phase in (eager, compiled):
        run_phase(phase)
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-3)
    assert weights(compiled).keys() == weights(eager).keys()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fields",
    [
        {"packing": "bucketed"},
        {"packing": "packed"},
        {"packing": "packed", "lora_rank": 4},
        {"packing": "packed", "engine": "deepspeed", "zero_stage": 2},
    ],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_on_a_gpu_compiled_layers_learn_the_same(tmp_path: Path, fields: dict[str, object]):
    if "engine" in fields:
        pytest.importorskip("deepspeed")
    both = {"precision": "bf16", "learning_rate": 5e-3, **fields}
    eager, compiled = (prepare(tmp_path, name, compile=name == "compiled", **both) for name in ("eager", "compiled"))
    for phase in (eager, compiled):
        run_phase(phase)
    assert losses(compiled)[0] == pytest.approx(losses(eager)[0], rel=0.01)
    assert losses(compiled)[-1] == pytest.approx(losses(eager)[-1], rel=0.1)
    assert weights(compiled).keys() == weights(eager).keys()
