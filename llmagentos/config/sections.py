"""The sections of the configuration: one line of documentation a field. What concerns learning is in learning.py."""

from typing import Literal

from pydantic import Field, model_validator

from llmagentos.config.section import Section


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
    replica_resource: str = ""
    """A custom resource of Ray of which a replica takes a thousandth: only nodes that declare it run one."""
    max_ongoing: int = Field(64, ge=1)
    """Requests a replica works on at once."""
    max_queued: int = Field(32, ge=-1)
    """Requests that may wait, one of `n` choices counted `n` times; beyond it 429 with Retry-After. Half of `max_ongoing`
    keeps whoever is let in within twice the time that an answer takes at capacity."""
    memory_mb: int = Field(0, ge=0)
    """MB that the engines of one replica may take, weights and cache blocks; 0 is no limit. A newer champion is loaded
    beside the old one, so it must hold both."""
    max_asked: int = Field(4, ge=1)
    """Versions beside the released ones that a replica loads because they were asked for by number; then an idle one goes."""
    max_body_bytes: int = Field(4_000_000, ge=1024)
    """Largest request body; beyond it 413."""
    request_seconds: float = Field(600.0, gt=0)
    """Longest that a body may take to arrive (else 408), and then its answer to be ready (else 503)."""
    drain_seconds: float = Field(60.0, gt=0)
    """Longest that a replica which is replaced, as in a rolling redeploy, may take to end the answers it has under way."""
    poll_seconds: float = Field(0.5, gt=0)
    """How often a replica looks for a newer release."""
    ingress: Literal["default", "haproxy"] = "default"
    """What takes requests in: Ray Serve's proxy, or HAProxy, which puts a request to another replica where one dies."""
    hung_seconds: float = Field(5.0, gt=0)
    """An engine with requests under way that makes no step for so long, and for five times what a full one takes on a CPU,
    hangs. Its process is replaced, or the replica where it has none of its own."""
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


class EvaluateConfig(Section):
    """How suites are put to versions and candidates."""

    batch_tokens: int = Field(2048, ge=64)
    """Tokens of one forward pass."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest generated answer."""
    max_retention: int = Field(2000, ge=100)
    """Most live old items asked."""
    threads: int = Field(1, ge=1)
    """CPU threads of the evaluation; two on two busy cores wait for one another more than they gain."""
    processes: int = Field(1, ge=1)
    """Processes of this machine that ask candidates side by side, this one included."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that a task reserves which asks models: known rows, candidates, suites, drift, samples. 0 asks on the CPU."""
    drift_rows: int = Field(200, ge=1)
    """Most rows, new and old each, on which the drift from the champion is measured."""

    @property
    def at_once(self) -> int:
        """Processes that ask side by side: where GPUs are reserved, one."""
        return 1 if self.gpus else self.processes


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
