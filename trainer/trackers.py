"""TensorBoard and Weights & Biases beside `metrics.jsonl`, each an extra that is asked for by name (`--set trackers=tensorboard`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from trainer.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.config import RunConfig


class Tracker(Protocol):
    """Where metrics go."""

    def step(self, figures: dict[str, Any]) -> None:
        """Take the figures of one optimizer step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in `out/tensorboard`. tensorboardX writes them without TensorFlow or TensorBoard itself."""

    def __init__(self, out: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise _missing("tensorboard", "tensorboardX") from None
        self._writer = SummaryWriter(str(out / "tensorboard"))

    def step(self, figures: dict[str, Any]) -> None:
        """Take the figures of one optimizer step."""
        for name, value in figures.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, figures["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `lumina`; account and mode are the environment's (`WANDB_API_KEY`, `WANDB_MODE`)."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb", "wandb") from None
        import dataclasses

        # Going on with a run's own id puts what a resume logs behind what is there.
        self._run = wandb.init(project="lumina", dir=str(out), id=_run_id(out), resume="allow", config=dataclasses.asdict(config))

    def step(self, figures: dict[str, Any]) -> None:
        """Take the figures of one optimizer step."""
        self._run.log({k: v for k, v in figures.items() if k != "step" and v is not None}, step=figures["step"])

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def build(config: RunConfig, out: Path) -> tuple[Tracker, ...]:
    """Return the trackers that a run asks for. Raises ConfigError for one that is not installed."""
    made: list[Tracker] = []
    for name in filter(None, config.training.trackers.split(",")):
        made.append(TensorBoard(out) if name == "tensorboard" else WeightsAndBiases(out, config))
    return tuple(made)


def _run_id(out: Path) -> str:
    import secrets

    path = out / "wandb-run-id"
    if not path.is_file():
        path.write_text(secrets.token_hex(8), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _missing(name: str, package: str) -> ConfigError:
    return ConfigError(
        "trackers", name, f"the tracker {name} needs {package}, which is not installed", f"pip install 'lumina-cloud[{name}]'"
    )
