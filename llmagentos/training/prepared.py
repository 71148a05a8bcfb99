"""A training run that is ready to start: its phase, the plan's facts, and what it will become."""

from dataclasses import dataclass, field

from llmagentos.config.learning import LoraConfig, TrainingConfig
from llmagentos.core.records import ModelVersion
from llmagentos.training.phase import Phase
from llmagentos.training.plan import PlanFacts


@dataclass(frozen=True)
class Prepared:
    """`start` is the version whose weights are trained on, None for a student made from nothing."""

    phase: Phase
    facts: PlanFacts
    snapshot: str
    start: ModelVersion | None
    teacher: ModelVersion | None = None
    rows: dict[str, int] = field(default_factory=dict)
    """What there was to plan with: rows of each source, `dropped` ones, and the `replay_version` of the table."""


def lora_settings(lora: LoraConfig) -> dict[str, object]:
    """The fields of a phase that say which adapters it trains, if any."""
    return {"lora_rank": lora.rank if lora.enabled else 0, "lora_alpha": lora.alpha}


def engine_settings(training: TrainingConfig) -> dict[str, object]:
    """The fields of a phase that update and distill share."""
    return {
        "accumulation": training.accumulation,
        "engine": training.engine,
        "zero_stage": training.zero_stage,
        "precision": training.precision,
        "packing": training.packing,
        "compile": training.compile,
        "threads": training.threads,
        "checkpoint_steps": training.checkpoint_steps,
    }
