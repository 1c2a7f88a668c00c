"""Model, training and layout configuration, and the sixteen presets.

The one source of truth for shapes, parameter counts and FLOPs: the planner counts from it, the trainer builds from it, and
a test holds the two equal. Standard library only, so that the orchestrator can import it without torch.

Choices: a configuration is a tree of frozen dataclasses; `RunConfig` is what `run.json` holds. Presets are data
(`presets.toml`). A flat name (`d_model`, `seq_len`, `micro_batch`) is unique in the whole tree, so `--set NAME=VALUE` needs no
path. Every refusal is a `ConfigError` that names the field, its value and what would be right.
"""

from trainer.config.checking import (
    check,
    with_layout,
)
from trainer.config.counting import (
    ParameterCount,
    count_flops,
    count_parameters,
)
from trainer.config.files import (
    from_json,
    load,
    override,
    parse_count,
)
from trainer.config.presets import (
    FINE_TUNED,
    fine_tuning,
    preset,
    with_recipe,
)
from trainer.config.refusals import (
    REFUSALS,
    refusals,
)
from trainer.config.shapes import (
    ARCHS,
    BYTE_VOCAB,
    CHECKPOINTS_IN_TURN,
    CHINCHILLA_TOKENS_PER_PARAMETER,
    MODELS,
    RECIPES,
    WRITING_APART,
    Arch,
    Checkpointing,
    ConfigError,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    Offload,
    PlanConfig,
    Precision,
    Recipe,
    RunConfig,
    TrainingConfig,
    unknown,
)

__all__ = [
    "ARCHS",
    "Arch",
    "BYTE_VOCAB",
    "CHECKPOINTS_IN_TURN",
    "CHINCHILLA_TOKENS_PER_PARAMETER",
    "Checkpointing",
    "ConfigError",
    "DataConfig",
    "FINE_TUNED",
    "LayoutConfig",
    "MODELS",
    "ModelConfig",
    "Offload",
    "ParameterCount",
    "PlanConfig",
    "Precision",
    "RECIPES",
    "REFUSALS",
    "Recipe",
    "RunConfig",
    "TrainingConfig",
    "WRITING_APART",
    "check",
    "count_flops",
    "count_parameters",
    "fine_tuning",
    "from_json",
    "load",
    "override",
    "parse_count",
    "preset",
    "refusals",
    "unknown",
    "with_layout",
    "with_recipe",
]
