"""`lumina plan --budget --deadline --target-loss`: the question turned round, and its answer planned forwards and kept."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from lumina_cloud.api import cpu_benchmark, planning
from lumina_cloud.api.documents import of_plans
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import backwards
from lumina_cloud.runs import workloads
from trainer import config as trainer_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from lumina_cloud.api.planning import MachineFilter, Planned
    from lumina_cloud.api.session import Session
    from lumina_cloud.planner.backwards import Answer, Answers, Goal
    from lumina_cloud.runs.workloads import WorkloadRequest
    from trainer.config import RunConfig

_UNITS = {"m": 1 / 60, "min": 1 / 60, "h": 1.0, "d": 24.0, "w": 168.0, "": 1.0}


def hours_of(text: str) -> float:
    """Return the hours that `48h`, `2d`, `90m` or a plain number mean. Raises UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(min|m|h|d|w|)\s*", text.lower())
    hours = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < hours < 1e6:
        raise UsageError(f"--deadline is {text!r}, no time", "e.g. --deadline 48h, 2d or 90m")
    return hours


def goal_of(budget: Decimal | None, deadline: str | None, target_loss: float | None) -> Goal:
    """Return what is wanted. Raises UsageError for a budget or a loss that cannot be meant."""
    if budget is not None and budget <= 0:
        raise UsageError(f"--budget is {money.text(budget)}, but must be above 0", "e.g. --budget 50")
    if target_loss is not None and not 0 < target_loss < 20:
        raise UsageError(f"--target-loss is {target_loss:g}, but is in nats a token, above 0", "e.g. --target-loss 3.2")
    return backwards.Goal(budget, None if deadline is None else hours_of(deadline), target_loss)


def make_plan(
    session: Session, base: WorkloadRequest, model: str | None, wanted: MachineFilter, goal: Goal
) -> Planned | of_plans.PlanDocument:
    """Answer a goal: the first answer planned forwards, or a document that says why there is none.

    `base` holds what was said beside the goal: architectures, data, settings. Raises UsageError for tokens, which are what is asked for.
    """
    if base.tokens is not None or base.epochs is not None:
        raise UsageError("--budget, --deadline and --target-loss choose the tokens", "leave out --tokens and --epochs")
    available = planning.machines(session.settings, wanted, measure=cpu_benchmark.precision_here("bf16", fixed=False))
    if not available:
        raise planning.no_price(wanted)
    if base.unique_tokens is not None:
        goal = replace(goal, unique_tokens=trainer_config.parse_count("unique_tokens", base.unique_tokens))
    elif base.data is not None:
        goal = replace(goal, unique_tokens=_tokens_of(base))
    try:
        found = backwards.best(goal, base.archs, available, _as_said(base), model=model)
    except trainer_config.ConfigError as error:
        raise workloads.usage(error) from error
    told = _document(base, goal, found)
    if not found.answers:
        return of_plans.PlanDocument(
            plan="", workloads=[], rows=[], published=[], recommendation=None, refused=[], backwards=told, notes=[found.why_none]
        )
    first = found.answers[0]
    planned = planning.make_plan(session, request_of(base, first), _filter(first), only=first.machine)
    document = planned.document.model_copy(update={"backwards": told})
    record = replace(planned.record, result=document.model_dump(mode="json"))
    return replace(planned, document=document, record=record)


def _tokens_of(base: WorkloadRequest) -> int:
    from pathlib import Path

    return workloads.estimated_tokens(Path(base.data or ""), 32_000)


def _as_said(base: WorkloadRequest) -> Callable[[RunConfig], RunConfig]:
    """Return what puts the user's settings over a size."""
    said = dict(base.settings)
    if base.global_batch is not None:
        said["global_batch_tokens"] = base.global_batch

    def changed(config: RunConfig) -> RunConfig:
        config = trainer_config.with_recipe(config, "published" if base.recipe == "published" else "paper")
        if base.data is not None:
            config = replace(config, data=replace(config.data, source=base.data))
        return trainer_config.override(config, said) if said else config

    return changed


def _filter(answer: Answer) -> MachineFilter:
    m = answer.machine
    if m.provider == "local":
        return planning.MachineFilter(provider="local")
    return planning.MachineFilter(m.provider, m.gpu.name, m.count)


def request_of(base: WorkloadRequest, answer: Answer) -> WorkloadRequest:
    """Return the request that plans an answer forwards."""
    training = answer.config.training
    return replace(
        base,
        model=answer.config.preset,
        archs=(answer.config.model.arch,),
        tokens=str(training.tokens),
        unique_tokens=str(training.unique_tokens),
        settings=tuple({**dict(answer.changed), **dict(base.settings)}.items()),
    )


def _document(base: WorkloadRequest, goal: Goal, found: Answers) -> of_plans.Backwards:
    return of_plans.Backwards(
        budget_usd=None if goal.usd is None else money.text(goal.usd),
        deadline_hours=goal.hours,
        target_loss=goal.loss,
        answers=[_answer(base, a) for a in found.answers],
        tried=found.tried,
        why_none=found.why_none,
    )


def _answer(base: WorkloadRequest, a: Answer) -> of_plans.BackwardsAnswer:
    tokens = a.config.training.tokens
    return of_plans.BackwardsAnswer(
        model=a.config.preset,
        arch=a.config.model.arch,
        settings=dict(a.changed),
        parameters_active=a.parameters,
        tokens=tokens,
        tokens_per_parameter=round(tokens / a.parameters, 3),
        gpu=a.machine.gpu.name,
        count=a.machine.count,
        provider=a.machine.provider,
        interruptible=a.machine.interruptible,
        usd=planning.money_interval(a.usd),
        hours=planning.interval(a.hours),
        loss=planning.interval(a.loss),
        type=_typed(request_of(base, a), _filter(a)),
    )


def _typed(request: WorkloadRequest, machine: MachineFilter) -> str:
    words = ["lumina", "plan", request.model, "--arch", request.archs[0], "--tokens", request.tokens or ""]
    words += ["--unique-tokens", request.unique_tokens or ""]
    words += ["--global-batch", request.global_batch] if request.global_batch else []
    words += ["--seed", str(request.seed)] if request.seed is not None else []
    words += ["--data", request.data] if request.data else []
    words += ["--recipe", request.recipe] if request.recipe != "paper" else []
    words += ["--provider", machine.provider or ""]
    words += ["--gpu", machine.gpu, "--count", str(machine.count)] if machine.gpu else []
    for name, value in request.settings:
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)
