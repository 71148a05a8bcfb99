"""A phase says all that one training run needs, as data: it crosses process borders and is stored beside the run."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Annotation(BaseModel):
    """Ask a frozen model about the rows first: its top-k log-probabilities on the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Folder of the frozen model."""
    cache: str
    """Arrow file that holds the answers; reused where it is complete."""
    top_k: int = 8
    sources: tuple[str, ...] = ("new", "memory", "general")
    """Rows of these sources are asked."""
    stored: str = ""
    """Folder that keeps each row's first answer for ever, for this `top_k`; what it knows is not asked. Empty: none."""


class Phase(BaseModel):
    """Train the weights of `init` on `plan` over `rows` with `terms`; the result goes to `out`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    init: str
    out: str
    run_dir: str
    """Checkpoints and metrics.jsonl."""
    rows: str
    plan: str
    terms: dict[str, dict[str, Any]]
    """Term name -> its settings."""
    annotation: Annotation | None = None
    caches: str = ""
    """Folder for what outlives the run and is found again by its content; empty: in `run_dir`."""
    learning_rate: float
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    noise: float = 0.0
    """Gradient norm below which steps shrink with the gradient, as engine.epsilon says; 0 is AdamW's usual 1e-8."""
    round_steps: int = 0
    """The plan is of rounds of so many steps, each with its own warm-up and decay; 0: it is one round."""
    probe: tuple[int, ...] = ()
    """Rows to ask behind each round: with `enough` of them right, or hardly more than a round before, it was the last."""
    enough: float = 1.0
    accumulation: int = 1
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    packing: Literal["bucketed", "packed"] = "bucketed"
    """How a micro-batch becomes tensors; the plan is made for the same."""
    compile: bool = False
    """Compile the layers, where the device is a GPU and ZeRO leaves every rank whole weights."""
    lora_rank: int = 0
    """0 trains every weight."""
    lora_alpha: float = 64.0
    threads: int = 1
    ema: float = 0.0
    """Decay of the average of the weights that is left in `<out>-ema` too; 0 keeps none."""
    checkpoint_steps: int = 200
    seed: int = 0
    resume: bool = True


def averaged(phase: Phase) -> str:
    """Where a phase with `ema` leaves the average."""
    return phase.out + "-ema"
