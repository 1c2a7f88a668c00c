"""Combinations of settings that the engine cannot train, as a table: each with its reason and a way out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.config.shapes import SECTIONS, ConfigError, RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Refusal:
    """A combination of settings that the engine cannot train. `why` and `hint` are filled in from the configuration `c`."""

    key: str
    name: str
    """The field that the error names."""
    why: str
    hint: str
    applies: Callable[[RunConfig], bool] = field(repr=False, compare=False)

    def error(self, config: RunConfig) -> ConfigError:
        """Return the refusal of `config` in words."""
        section = next(s for s, cls in SECTIONS.items() if self.name in {f.name for f in dataclasses.fields(cls)})
        value = getattr(getattr(config, section), self.name)
        return ConfigError(self.name, value, self.why.format(c=config), self.hint.format(c=config))


TRACKERS: tuple[str, ...] = ("tensorboard", "wandb")

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "unknown stage",
        "zero_stage",
        "there is no ZeRO stage {c.layout.zero_stage}",
        "take 0, 1, 2 or 3",
        lambda c: c.layout.zero_stage > 3,
    ),
    Refusal(
        "fp16 on a CPU",
        "precision",
        "fp16 has no arithmetic on a CPU in DeepSpeed",
        "take --set precision=bf16 or fp32",
        lambda c: c.training.precision == "fp16" and c.device == "cpu",
    ),
    Refusal(
        "bf16 at stage 0",
        "zero_stage",
        "bf16 at ZeRO stage 0 trains measurably differently in DeepSpeed",
        "take zero_stage=1, or precision=fp32",
        lambda c: c.training.precision == "bf16" and c.layout.zero_stage == 0,
    ),
    Refusal(
        "fp16 at stage 0",
        "zero_stage",
        "fp16 at ZeRO stage 0 goes through the same optimizer in DeepSpeed that trains differently in bf16",
        "take zero_stage=1, or precision=fp32",
        lambda c: c.training.precision == "fp16" and c.device != "cpu" and c.layout.zero_stage == 0,
    ),
    Refusal(
        "expert parallelism without experts",
        "expert_parallel",
        "arch {c.model.arch} has no experts that could be spread over {c.layout.expert_parallel} GPUs",
        "take expert_parallel=1",
        lambda c: c.layout.expert_parallel != 1 and not c.model.has_experts,
    ),
    Refusal(
        "expert parallelism",
        "expert_parallel",
        "experts are not spread over GPUs: each GPU multiplies its own tokens by all of them, sorted, and drops none",
        "take expert_parallel=1; ZeRO stage 3 shards the experts' weights",
        lambda c: c.layout.expert_parallel != 1 and c.model.has_experts,
    ),
    Refusal(
        "optimizer offload below stage 2",
        "offload",
        "offload=optimizer needs gradients that are sharded, and ZeRO stage {c.layout.zero_stage} does not shard them",
        "take zero_stage=2 or 3",
        lambda c: c.layout.offload == "optimizer" and c.layout.zero_stage < 2,
    ),
    Refusal(
        "parameter offload below stage 3",
        "offload",
        "offload=optimizer+parameters needs parameters that are sharded, and ZeRO stage {c.layout.zero_stage} does not shard them",
        "take zero_stage=3",
        lambda c: c.layout.offload == "optimizer+parameters" and c.layout.zero_stage < 3,
    ),
    Refusal(
        "8-bit AdamW on a CPU",
        "optimizer",
        "8-bit AdamW has GPU kernels only",
        "take optimizer=adamw",
        lambda c: c.training.optimizer == "adamw8bit" and c.device == "cpu",
    ),
    Refusal(
        "8-bit AdamW with offload",
        "optimizer",
        "8-bit AdamW works on the GPU, and offload={c.layout.offload} moves the optimizer to the CPU",
        "take offload=none, or optimizer=adamw",
        lambda c: c.training.optimizer == "adamw8bit" and c.device != "cpu" and c.layout.offload != "none",
    ),
    Refusal(
        "every n-th block without checkpointing",
        "checkpoint_every",
        "checkpoint_every={c.layout.checkpoint_every} has no effect with checkpointing=none",
        "take checkpointing=block as well",
        lambda c: c.layout.checkpoint_every != 1 and c.layout.checkpointing == "none",
    ),
    Refusal(
        "every n-th of fewer blocks",
        "checkpoint_every",
        "checkpoint_every={c.layout.checkpoint_every} is more than the {c.model.n_layers} blocks there are",
        "take checkpoint_every between 1 and {c.model.n_layers}",
        lambda c: c.layout.checkpointing == "block" and c.layout.checkpoint_every > c.model.n_layers,
    ),
    Refusal(
        "compiling sharded parameters",
        "compile",
        "torch.compile cannot trace through ZeRO stage 3, which gathers parameters while the model runs",
        "take compile=auto or off, or zero_stage=2",
        lambda c: c.layout.compile == "on" and c.layout.zero_stage == 3,
    ),
    Refusal(
        "unknown tracker",
        "trackers",
        "trackers is {c.training.trackers!r}, and there are tensorboard and wandb",
        "take trackers=tensorboard, trackers=wandb, or trackers=tensorboard,wandb",
        lambda c: not set(filter(None, c.training.trackers.split(","))) <= set(TRACKERS),
    ),
)
"""What cannot be trained, and why, beyond shapes and numbers. Planner and trainer both ask `check`, which asks this table."""


def refusals(config: RunConfig) -> list[ConfigError]:
    """Return every entry of the table that refuses `config`; empty when the engine can train it."""
    return [refusal.error(config) for refusal in REFUSALS if refusal.applies(config)]
