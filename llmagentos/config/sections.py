"""The sections of the configuration: frozen, typed, unknown keys refused, one line of documentation a field."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class StorageConfig(Section):
    root: str = ".llmagentos"
    """The one folder that holds all state; made absolute at start."""
    keep_versions: int = Field(10, ge=3)
    """Versions whose weights stay on disk; champion, previous, student and anchor always do."""
    flush_rows: int = Field(256, ge=1)
    """Spooled records that trigger a flush into Delta."""
    flush_seconds: float = Field(5.0, gt=0)
    """Longest time a record waits in the spool while serving."""
    lease_seconds: float = Field(30.0, gt=0)
    """A lease whose beat has not changed for this long (on the rival's own clock) may be taken over."""


class ModelConfig(Section):
    base: str = ""
    """Empty: the seed model shipped with the package. Else a local directory or a hub id of a causal LM; the `agent` in a
    folder that `llmagentos pretrain` made comes with its student, its suites and its memory."""
    student_base: str = ""
    """Empty: the seed's own student, or a fresh small model where `base` is no seed."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights' type while serving and training."""
    max_length: int = Field(1024, ge=16)
    """Longest prompt plus answer, in tokens."""
    offline: bool = True
    """Never ask a hub; set to false to fetch `base` by its hub id."""


class ServeConfig(Section):
    host: str = "127.0.0.1"
    """Address to bind; beyond loopback needs LLMAGENTOS_API_KEY or a key added with `llmagentos keys`."""
    port: int = Field(8000, ge=0, le=65535)
    """Port of the OpenAI-compatible endpoint; 0 picks a free one."""
    agent_name: str = "agent"
    """Model id that clients ask for."""
    replicas: int = Field(1, ge=1)
    """Serve replicas."""
    replica_cpus: float = Field(0.1, gt=0)
    """Logical CPUs a replica reserves."""
    replica_gpus: float = Field(0.0, ge=0)
    """GPUs a replica reserves."""
    max_ongoing: int = Field(64, ge=1)
    """Requests a replica works on at once."""
    max_queued: int = Field(32, ge=-1)
    """Requests that may wait; beyond it 429 with Retry-After. Half of `max_ongoing` keeps whoever is let in within twice the
    time that an answer takes at capacity."""
    memory_mb: int = Field(0, ge=0)
    """MB that the engines of one replica may take, weights and cache blocks; 0 is no limit. A newer champion is loaded
    beside the old one, so it must hold both."""
    max_asked: int = Field(4, ge=1)
    """Versions beside the released ones that a replica loads because they were asked for by number; then an idle one goes."""
    max_body_bytes: int = Field(4_000_000, ge=1024)
    """Largest request body; beyond it 413."""
    request_seconds: float = Field(600.0, gt=0)
    """Longest that a body may take to arrive (else 408), and then its answer to be ready (else 503)."""
    poll_seconds: float = Field(0.5, gt=0)
    """How often a replica looks for a newer release."""
    ingress: Literal["default", "haproxy"] = "default"
    """What takes requests in: Ray Serve's proxy, or HAProxy, which puts a request to another replica where one dies."""
    hung_seconds: float = Field(5.0, gt=0)
    """An engine with requests under way that makes no step for so long hangs. Its process is replaced, or the replica where
    it has none of its own."""
    api_key_env: str = "LLMAGENTOS_API_KEY"
    """Environment variable with the API key; unset means loopback only, without a key."""


class EngineConfig(Section):
    name: Literal["transformers", "vllm"] = "transformers"
    """Which engine generates."""
    apart: bool = True
    """Each version that serves generates in a process of its own, so that neither loading one nor answering the network
    holds it up. vLLM always does."""
    threads: int = Field(1, ge=1)
    """CPU threads of one engine."""
    max_batch_tokens: int = Field(256, ge=16)
    """Tokens one step of continuous batching may hold."""
    page_size: int = Field(64, ge=8)
    """Tokens of one cache block."""
    num_blocks: int = Field(256, ge=4)
    """Cache blocks."""
    prefix_reuse: bool = True
    """Keep whole cache blocks of what was computed for requests that begin alike, as turns of a conversation do."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer where the request does not say."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Temperature where the request does not say; 0 is greedy."""


class AgentConfig(Section):
    system_prompt: str = ""
    """Put before every conversation that has no system message; empty adds nothing."""


class CollectConfig(Section):
    max_rows: int = Field(50_000, ge=1)
    """New rows one snapshot takes; the rest waits for the next."""
    min_rows: int = Field(8, ge=1)
    """Fewer trainable rows than this is an empty increment, unless they change what is known: the cycle is skipped."""
    supersede_witnesses: int = Field(2, ge=1)
    """Rows of traffic that must agree before a known fact is replaced; imports are trusted."""
    fact_share: float = Field(0.6, gt=0.5, le=1)
    """Share of a key's rows that must agree on one answer for the key to be a fact."""
    max_attempts: int = Field(3, ge=1)
    """Times a row joins a later snapshot (after a failed update, or disputed) before it goes to quarantine."""
    redactor: Literal["patterns"] = "patterns"
    """What takes personal data out of prompts and answers; a name in llmagentos.collect.redact."""
    implicit: bool = False
    """Also read answers nobody judged, for what the user did next: asked again, or met a tool's error."""


class ReplayConfig(Section):
    capacity: int = Field(20_000, ge=0)
    """Rows the buffer keeps."""
    hard: float = Field(0.1, ge=0, le=1)
    """Share of the room beyond one row a key that goes to rows the promoted model still finds hard."""
    new: float = Field(0.4, ge=0)
    """Share of new rows in the mix, by tokens."""
    memory: float = Field(0.3, ge=0)
    """Share of remembered rows in the mix, by tokens."""
    known: float = Field(0.9, ge=0.5, le=1)
    """Probability of each token of its answer from which a new row counts as known, and as memory; with 1 none does."""
    near: float = Field(0.5, ge=0, le=1)
    """Share of memory's tokens that goes to the rows that ask most like the new ones; 0 draws all alike."""
    general: float = Field(0.3, ge=0)
    """Share of the pinned general set in the mix, by tokens."""
    general_rows: int = Field(6_000, ge=0)
    """Rows of the pinned general set that one update draws from, others in each; 0 is all of them."""
    need: float = Field(0.5, ge=0, le=1)
    """Power of the champion's loss on a general skill by which it is asked more often than others; 0 asks all alike."""
    wordings: int = Field(20, ge=0)
    """Wordings in which each new question is trained on: those that traffic lacks are made; 0 makes none."""
    memory_wordings: int = Field(8, ge=0)
    """Wordings in which each remembered question may be asked again: those that were not said are made, others each time."""
    preference: float = Field(0.1, ge=0)
    """Share of judged rows in the mix, by tokens, where there are any and the strategy reads them."""

    @model_validator(mode="after")
    def _adds_up(self) -> "ReplayConfig":
        if self.new <= 0:
            raise ValueError("replay.new must be above 0: an update without new rows learns nothing")
        return self


class TrainingConfig(Section):
    """The engine room, shared by update and distill."""

    workers: int = Field(2, ge=0)
    """Ray Train workers; 0 trains in this process, without Ray."""
    threads: int = Field(1, ge=1)
    """CPU threads a worker."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """Logical CPUs a worker reserves."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs a worker reserves."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """What steps the optimiser."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches per optimiser step and worker."""
    batch_tokens: int = Field(768, ge=16)
    """Tokens of one optimiser step, all workers and micro-batches together."""
    packing: Literal["bucketed", "packed"] = "bucketed"
    """Rows of like length padded, or rows end to end in one, each with attention to itself only (same losses)."""
    compile: bool = False
    """Compile the model's layers on a GPU (1.4 times the tokens a second, LoRA 1.6, after a minute or two); not with ZeRO-3."""
    checkpoint_steps: int = Field(200, ge=1)
    """Optimiser steps between resumable checkpoints."""
    max_failures: int = Field(2, ge=0)
    """Times Ray Train restarts a broken worker group."""
    nice: int = Field(19, ge=0, le=19)
    """Niceness of train workers and of each step's own process, so that serving comes first."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Collectives between workers; auto is nccl with GPUs, else gloo."""


class LoraConfig(Section):
    enabled: bool = False
    """Train adapters on all linear layers and merge them in fp32; false trains every weight."""
    rank: int = Field(32, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(64.0, gt=0)
    """Scale of the adapters."""


THUMBS_ALONE = ("kto",)
"""Strategies that learn from a day without a single supervised answer."""


class RewardConfig(Section):
    """Reinforcement learning behind the supervised part of an update, on the snapshot's own prompts."""

    function: str = ""
    """`module:name` of reward(example, reply) -> 0 to 1, importable where the cycle runs; empty leaves this out."""
    rounds: int = Field(4, ge=1)
    """Rounds of sampling and training."""
    tasks: int = Field(48, ge=1)
    """Prompts of a round."""
    group: int = Field(8, ge=2)
    """Answers sampled to each prompt, which are compared with one another."""
    baseline: Literal["grpo", "rloo"] = "grpo"
    """What an answer is compared with."""
    leash: float = Field(5.0, ge=0)
    """Weight of the divergence from the weights before, on remembered and general rows."""
    learning_rate: float = Field(6e-4, gt=0)
    """Peak learning rate of the first round."""


class UpdateConfig(Section):
    strategy: str = "replay"
    """What fights forgetting; a name in llmagentos.update.strategies."""
    learning_rate: float = Field(1.0e-3, gt=0)
    """Peak learning rate; tiny models want about 1e-3, billions of parameters 1e-5 (full) or 1e-4 (LoRA)."""
    thumbs_rate: float = Field(0.1, gt=0, le=1)
    """Factor of it on a day of thumbs alone: without targets to fit, every full step pushes an answer further away."""
    epochs: float = Field(24.0, gt=0)
    """Passes over the new rows."""
    max_steps: int = Field(720, ge=1)
    """Most optimiser steps of one update."""
    min_steps: int = Field(600, ge=1)
    """Fewest optimiser steps: a small increment is learned with its usual passes, and the past fills the rest."""
    min_epochs: float = Field(3.0, gt=0)
    """Passes over the new rows that `max_steps` never cuts short."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of steps with rising learning rate; then cosine to a tenth."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    seed: int = 0
    """Order of rows, dropout and sampling."""
    sweep: tuple[float, ...] = (0.75, 0.9, 1.0)
    """Shares α of the step from the champion to the trained weights that are tried; (1.0,) tries the trained ones alone."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an average of the weights along the run, tried as a further candidate; 0 keeps none (it costs fp32 memory)."""
    lora: LoraConfig = LoraConfig()
    reward: RewardConfig = RewardConfig()
    terms: dict[str, dict[str, float | int | str]] = {}
    """Settings of loss terms, e.g. `update.terms.ewc.weight=1`, laid over those of a strategy that has the term."""

    @model_validator(mode="after")
    def _sweeps(self) -> "UpdateConfig":
        if self.ema and len(self.sweep) > 3:
            raise ValueError("update.sweep wants at most three shares beside update.ema: four candidates are asked at most")
        if not 1 <= len(set(self.sweep)) == len(self.sweep) <= 4 or not all(0 < alpha <= 1 for alpha in self.sweep):
            raise ValueError("update.sweep wants one to four different shares above 0 and up to 1")
        return self


class OnPolicyConfig(Section):
    """The stage of distillation in which the student answers itself (GKD)."""

    rounds: int = Field(0, ge=0)
    """Rounds of sampling and training after the cached stage; each is a start of its own. 0 leaves the stage out."""
    prompts: int = Field(512, ge=1)
    """Prompts a round samples answers to."""
    steps: int = Field(60, ge=1)
    """Optimiser steps of a round."""
    share: float = Field(0.5, gt=0, le=1)
    """Share of the student's own answers, by tokens; the rest are rows of the first stage."""
    divergence: str = "jsd"
    """How teacher and student are compared; a name in llmagentos.training.terms.divergence."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate of a round."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest sampled answer."""


class DistillConfig(Section):
    enabled: bool = True
    """Train a student after each update."""
    learning_rate: float = Field(1.3e-3, gt=0)
    """Peak learning rate of the student."""
    max_steps: int = Field(700, ge=1)
    """Most optimiser steps."""
    min_steps: int = Field(400, ge=1)
    """Fewest optimiser steps; the past fills what the new rows' passes leave."""
    epochs: float = Field(24.0, gt=0)
    """Passes over the new rows."""
    top_k: int = Field(8, ge=1)
    """Teacher log-probabilities kept per token; the rest is one tail bucket."""
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions; the loss is scaled by its square."""
    cross_entropy: float = Field(0.5, ge=0)
    """Weight of plain next-token loss beside the divergence."""
    on_policy: OnPolicyConfig = OnPolicyConfig()
    size: tuple[int, int, int] = (64, 2, 176)
    """Hidden size, layers and feed-forward size of a student made from nothing."""


class EvaluateConfig(Section):
    batch_tokens: int = Field(2048, ge=64)
    """Tokens of one forward pass."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest generated answer."""
    max_retention: int = Field(2000, ge=100)
    """Most live old items asked."""
    threads: int = Field(1, ge=1)
    """CPU threads of the evaluation; two on two busy cores wait for one another more than they gain."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that a task reserves which asks models: known rows, candidates, suites, drift, samples. 0 asks on the CPU."""
    drift_rows: int = Field(200, ge=1)
    """Most rows, new and old each, on which the drift from the champion is measured."""


class GateConfig(Section):
    mode: Literal["enforce", "report", "approve"] = "enforce"
    """enforce acts on the verdict, report promotes whatever it is, approve waits for a person."""
    margin: float = Field(0.02, gt=0, lt=1)
    """Loss on old items that is too much (non-inferiority margin, a share)."""
    safety_margin: float = Field(0.01, gt=0, lt=1)
    """The same for suites named safety or format."""
    z: float = Field(1.645, gt=0)
    """Normal quantile of the one-sided 5 % tests."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Level of the exact tests."""
    min_items: int = Field(60, ge=1)
    """Fewer old items than this: Hold where any of them is lost on net."""
    ceiling: float = Field(0.95, gt=0, le=1)
    """A champion at or above this on the new has nothing left to learn there."""
    drift_budget: float = Field(0.5, gt=0)
    """Divergence from the champion on old rows, in nats per token, above which an alarm asks for consolidation."""


class ReleaseConfig(Section):
    """The ladder: what a promoted challenger goes through before it is champion."""

    ladder: tuple[Literal["shadow", "canary"], ...] = ()
    """Stages in order; empty promotes at once."""
    shadow_share: float = Field(0.2, gt=0, le=1)
    """Share of requests that are mirrored to a version on its shadow stage."""
    canary_share: float = Field(0.1, gt=0, lt=1)
    """Share of sessions that a version on its canary stage answers."""
    min_samples: int = Field(200, ge=1)
    """Answers a version must have given on a stage before it moves on."""
    max_error_rate: float = Field(0.02, gt=0, lt=1)
    """Share of failed answers that is too much."""
    max_latency_ratio: float = Field(1.5, gt=1)
    """Its seconds an answer over the champion's, at the median and the 95th percentile, that are too much."""
    max_hours: float = Field(24.0, gt=0)
    """Longest stage; where it still lacks answers, the champion stays."""

    @model_validator(mode="after")
    def _climbs(self) -> "ReleaseConfig":
        if self.ladder not in ((), ("shadow",), ("canary",), ("shadow", "canary")):
            raise ValueError("release.ladder has each stage once, shadow before canary")
        return self


class RegistryConfig(Section):
    tracking_uri: str = ""
    """MLflow store; empty is SQLite under the root, which needs no server."""
    port: int = Field(5000, ge=0, le=65535)
    """Port of the local MLflow server; 0 picks a free one."""
    experiment: str = "llmagentos"
    """MLflow experiment and registered model prefix."""
    enabled: bool = True
    """false leaves MLflow as it is (the tables know all the same); a later cycle with true catches up."""
    trace_share: float = Field(0.0, ge=0, le=1)
    """Share of the answers that each cycle puts into MLflow as traces, redacted; 0 leaves all text out of MLflow."""


class LocalConfig(Section):
    logical_cpus: int = Field(8, ge=4)
    """Logical CPUs of the local Ray node: above the real ones, so that small actors do not starve one another."""
    object_store_mb: int = Field(300, ge=80)
    """Shared memory of the local Ray node."""
    dashboard_port: int = Field(8265, ge=0, le=65535)
    """Port of the Ray dashboard; 0 picks a free one."""
    ray_port: int = Field(0, ge=0, le=65535)
    """Port of the Ray head; 0 picks a free one."""
    ray_address: str = ""
    """Address of a Ray cluster to use; empty: the one this home started, else a private local one."""


class CycleConfig(Section):
    name: str = "default"
    """Cycles of one name exclude one another."""
    scenario: str = "customer_service"
    """Whose simulator `make demo` talks with."""


class TriggerConfig(Section):
    mode: Literal["always", "due"] = "always"
    """always runs a cycle whenever it is asked for; due runs it only when there is a reason to, else it is Skipped."""
    min_rows: int = Field(200, ge=1)
    """New trainable rows that are reason enough."""
    max_wait_hours: float = Field(24.0, gt=0)
    """A new row that waits longer than this is reason enough."""
    every_hours: float = Field(0.0, ge=0)
    """Hours since the last cycle that are reason enough, where anything new waits at all; 0 has no schedule."""
