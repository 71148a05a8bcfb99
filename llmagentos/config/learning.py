"""The sections of the configuration that say how is learned: from what, with what weight, at what rate."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llmagentos.config.section import Section


class CollectConfig(Section):
    max_rows: int = Field(50_000, ge=1)
    """New rows one snapshot takes; the rest waits for the next."""
    min_rows: int = Field(1, ge=1)
    """Fewer trainable rows than this is an empty increment, unless they change what is known: the cycle is skipped. Whoever
    asks for a cycle wants to learn what there is; what makes it worth the while is for `trigger` to say."""
    supersede_witnesses: int = Field(2, ge=1)
    """Rows of traffic that must agree before a known fact is replaced; imports are trusted."""
    fact_share: float = Field(0.6, gt=0.5, le=1)
    """Share of a key's rows that must agree on one answer for the key to be a fact."""
    max_attempts: int = Field(3, ge=1)
    """Times a row joins a later snapshot (after a failed update, or disputed) before it goes to quarantine."""
    redactor: Literal["patterns", "none"] = "patterns"
    """What takes personal data out of prompts and answers; a name in llmagentos.collect.redact. With `none` telephone numbers
    and addresses are learned like anything else: where they are a shop's own, say."""
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
    general_rows: int = Field(24_000, ge=0)
    """Rows of the pinned general set that one update draws from, others in each; 0 is all of them. About what three rounds ask:
    a quarter of it, asked four times over, is learned by heart, and general skills lose up to four points."""
    need: float = Field(0.5, ge=0, le=1)
    """Power of the champion's loss on a general skill, or on a remembered question in other words, by which it is asked more
    often than others; 0 asks all alike."""
    wordings: int = Field(20, ge=0)
    """Wordings in which each new question is trained on: those that traffic lacks are made, in whole ones that others were asked
    in (`frames`), and as many with words left out, so that it may be nearly twice as many; 0 makes none."""
    frames: bool = True
    """Made wordings are first whole ones in which others were asked the same; false leaves words out of those that were said."""
    refilled: bool = True
    """A call whose arguments stand word for word in the question, or in the conversation before it, is also shown with other
    ones, half as often as in made wordings; false shows those that were said alone."""
    conversations: bool = True
    """A conversation that ends with a fact is also shown about others of its kind, half as many as made wordings; false shows
    those that were said alone."""
    memory_wordings: int = Field(8, ge=0)
    """Wordings in which each remembered question may be asked again: those that were not said are made, others each time, and
    whole ones beside them as of `wordings`."""
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
    processes: int = Field(1, ge=1)
    """With workers=0 and engine=torch: processes of this machine that train together, this one included."""
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
    """Compile the model's layers (on a GPU 1.4 times the tokens a second, LoRA 1.6; on a CPU 1.3), after a minute or two; not
    with ZeRO-3."""
    checkpoint_steps: int = Field(200, ge=1)
    """Optimiser steps between resumable checkpoints."""
    max_failures: int = Field(2, ge=0)
    """Times Ray Train restarts a broken worker group."""
    nice: int = Field(19, ge=0, le=19)
    """Niceness of train workers and of each step's own process, so that serving comes first."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Collectives between workers; auto is nccl with GPUs, else gloo."""

    @property
    def ranks(self) -> int:
        """How many train together."""
        return self.workers or self.processes


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
    leash: float = Field(8.0, ge=0)
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
    unfamiliar: float = Field(4.0, gt=0)
    """Nats a token that the new answers cost the champion, from which they get more passes, in proportion up to 2.5 times: of
    a form or a language that it never met, so much more is to be learned."""
    max_steps: int = Field(720, ge=1)
    """Most optimiser steps of one round; `min_epochs` can ask for more."""
    rounds: int = Field(5, ge=1)
    """Most rounds of an update that replays the past: another one follows where less than `learned` of the new answers are
    known by then and the round before helped. Of free text no model has every word, so sizes above tiny take one."""
    learned: float = Field(0.97, gt=0, le=1)
    """Share of the new rows that are answered rightly, every token, with which an update has learned enough: as they were said,
    and in made wordings that are kept out of the training for it."""
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
    noise: float = Field(0.0, ge=0)
    """Gradient norm that counts as noise: it sets AdamW's ε, so that weights which an increment says nothing about stay. Of a
    small model's daily increments of some forty rows 0.06 keeps general skills; whole stages of a stream it costs 2 points."""
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


HEAD_WIDTH = 16
"""Of a first student."""
_Positive = Annotated[int, Field(ge=1)]


class DistillConfig(Section):
    enabled: bool = True
    """Train a student after each update."""
    learning_rate: float = Field(1.3e-3, gt=0)
    """Peak learning rate of the student."""
    max_steps: int = Field(700, ge=1)
    """Most optimiser steps."""
    min_steps: int = Field(400, ge=1)
    """Fewest optimiser steps; the past fills what the new rows' passes leave."""
    rounds: int = Field(2, ge=1)
    """Most rounds, as of an update: another one where the student knows less than `update.learned` of the new answers."""
    epochs: float = Field(24.0, gt=0)
    """Passes over the new rows."""
    top_k: int = Field(8, ge=1)
    """Teacher log-probabilities kept per token; the rest is one tail bucket."""
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions; the loss is scaled by its square."""
    cross_entropy: float = Field(0.5, ge=0)
    """Weight of plain next-token loss beside the divergence."""
    on_policy: OnPolicyConfig = OnPolicyConfig()
    size: tuple[_Positive, _Positive, _Positive] = (64, 2, 176)
    """Hidden size (a multiple of 16: its heads are that wide), layers and feed-forward size of a first student made from
    nothing."""
    depth: float = Field(0.0, ge=0, lt=1)
    """Share of the champion's layers that a first student is made of, with its embeddings and head; 0 makes it from nothing."""

    @model_validator(mode="after")
    def _has_whole_heads(self) -> "DistillConfig":
        if self.size[0] % HEAD_WIDTH:
            raise ValueError(f"distill.size wants a hidden size that is a multiple of {HEAD_WIDTH}: a head is that wide")
        return self
