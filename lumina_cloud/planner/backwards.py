"""The question turned round: the best model for a budget and a deadline, or the cheapest way to a loss.

Sizes lie between the presets too: widths, layers and heads are drawn between neighbours by the logarithm of the size. For every size on
every machine the layout is chosen once; the tokens follow from the money and the time, and the scaling law says which size makes the
most of them. What is promised is promised by the high ends: four times out of five the run costs and lasts less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from lumina_cloud.planner import loss as loss_law
from lumina_cloud.planner.costs import costs
from lumina_cloud.planner.duration import duration
from lumina_cloud.planner.layout_search import Choice, NoLayout, choose
from trainer.config import MODELS, ConfigError, LayoutConfig, ModelConfig, RunConfig, check, count_parameters, preset, with_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.estimate import Interval, Machine, MoneyInterval

BETWEEN = 5
"""Sizes between two presets."""
LEAST_STEPS = 50
"""Fewer optimizer steps train nothing: the schedule alone takes that many."""
MOST_TOKENS = 10**14
MOST_TOKENS_PER_PARAMETER = 200
"""Ten times the compute-optimal ratio: beyond it a larger model is always worth more."""
SMALLEST = "debug200m"
"""Sizes start at the neighbour above `debug`: below it no scaling law was fitted, and nothing can be compared."""
STRAIGHT = 128
"""Widths are multiples of it."""


@dataclass(frozen=True)
class Goal:
    """What must hold; None where anything may."""

    usd: Decimal | None = None
    hours: float | None = None
    loss: float | None = None
    unique_tokens: int | None = None
    """Tokens of different text that there are; None where text is as good as endless."""


@dataclass(frozen=True)
class Answer:
    """A workload on a machine that reaches the goal."""

    config: RunConfig
    machine: Machine
    changed: tuple[tuple[str, str], ...]
    """Settings by which the model differs from its preset."""
    parameters: int
    """Active ones."""
    memory_upper_gib: float
    tokens_per_second: Interval
    hours: Interval
    usd: MoneyInterval
    loss: Interval


@dataclass(frozen=True)
class Answers:
    """The best first; `tried` counts sizes on machines."""

    answers: tuple[Answer, ...]
    tried: int
    why_none: str = ""


@dataclass(frozen=True)
class Size:
    """One size of an architecture: a preset, or a shape between two."""

    config: RunConfig
    changed: tuple[tuple[str, str], ...]


# --- sizes ---------------------------------------------------------------------------------------------------------------


@cache
def sizes(arch: str) -> tuple[Size, ...]:
    """Return the sizes that are tried, smallest first; the presets are among them, as they are."""
    names = MODELS[MODELS.index(SMALLEST) :]
    found = [_between(preset(names[0], arch), preset(names[0], arch), 0.25 * step) for step in (-2, -1)]
    for lower, upper in pairwise(names):
        low, high = preset(lower, arch), preset(upper, arch)
        found.append(Size(low, ()))
        found += [_between(low, high, step / (BETWEEN + 1)) for step in range(1, BETWEEN + 1)]
    return (*found, Size(preset(names[-1], arch), ()))


def _between(low: RunConfig, high: RunConfig, share: float) -> Size:
    """Return the shape `share` of the way from one preset to the next, by the logarithm; a negative share scales the first down."""
    a, b = low.model, high.model
    if share < 0:
        factor = math.pow(2, share * 2)
        shape = _shape(a, _rounded(a.d_model * factor, STRAIGHT), max(4, round(a.n_layers * factor)), a.d_ff * factor)
        nearest = low
    else:
        d_model = _rounded(_geometric(a.d_model, b.d_model, share), STRAIGHT)
        nearest = low if share <= 0.5 else high
        shape = _shape(nearest.model, d_model, round(_geometric(a.n_layers, b.n_layers, share)), _geometric(a.d_ff, b.d_ff, share))
    config = replace(nearest, model=shape)
    check(replace(config, device="cuda"))
    names = ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "d_expert")
    changed = tuple((n, str(getattr(shape, n))) for n in names if getattr(shape, n) != getattr(nearest.model, n))
    return Size(config, changed)


def _shape(like: ModelConfig, d_model: int, n_layers: int, d_ff: float) -> ModelConfig:
    """Return a shape like another's, its heads as wide."""
    d_head = 64 if d_model % 128 else like.d_head
    n_heads = d_model // d_head
    wanted = max(1, round(n_heads * like.n_kv_heads / like.n_heads))
    groups = [h for h in range(1, n_heads + 1) if n_heads % h == 0]
    n_kv_heads = min(groups, key=lambda h: (abs(h - wanted), h))
    wide = _rounded(d_ff, 128)
    return replace(like, d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, d_ff=wide, d_expert=wide // 2)


def _geometric(a: float, b: float, share: float) -> float:
    return math.exp((1 - share) * math.log(a) + share * math.log(b))


def _rounded(value: float, unit: int) -> int:
    return max(unit, round(value / unit) * unit)


# --- search --------------------------------------------------------------------------------------------------------------


def best(
    goal: Goal,
    archs: Sequence[str],
    machines: Sequence[Machine],
    fixed: Callable[[RunConfig], RunConfig] | None = None,
    *,
    model: str | None = None,
    most: int = 8,
) -> Answers:
    """Return what reaches the goal: the least loss within budget and deadline, or with a loss asked for, the cheapest way there.

    `fixed` may change a size's configuration before it is tried (data, sequence length); with a
    `model`, that preset alone is tried. Of each architecture and size the best machine is kept.
    """
    if goal.loss is not None:
        hopeless = unreachable(goal.loss)
        if hopeless:
            return Answers((), 0, hopeless)
    found: list[Answer] = []
    tried = 0
    for arch in archs:
        for size in sizes(arch) if model is None else (Size(preset(model, arch), ()),):
            config = size.config if fixed is None else fixed(size.config)
            wanted = None if goal.loss is None else tokens_for_loss(config, goal)
            if goal.loss is not None and wanted is None:
                continue
            on_machines = []
            for machine in machines:
                tried += 1
                answer = _on(replace(size, config=config), machine, goal, wanted)
                if answer is not None:
                    on_machines.append(answer)
            if on_machines:
                found.append(min(on_machines, key=lambda a: _order(goal, a)))
    ranked = sorted(found, key=lambda a: _order(goal, a))
    return Answers(tuple(ranked[:most]), tried, "" if ranked else _why_none(goal))


def _order(goal: Goal, answer: Answer) -> tuple[float, float, float]:
    """Return what is least of the best answer: its loss, or with a loss asked for, its price."""
    usd = float(answer.usd.mid)
    if goal.loss is not None:
        return (usd, answer.hours.mid, answer.loss.mid)
    return (round(answer.loss.mid, 4), usd, answer.hours.mid)


def unreachable(loss: float) -> str:
    """Return why no size and no number of tokens reaches a loss, empty where one may."""
    floor = loss_law.E + loss_law.OFFSET
    if loss <= floor:
        return f"no way to a loss of {loss:g} is known: the law levels out at {floor:.2f}, whatever the size and the tokens"
    return ""


def _why_none(goal: Goal) -> str:
    if goal.loss is not None:
        return f"no size up to {MODELS[-1]} reaches a loss of {goal.loss:g} within what was asked; none is known that does"
    return f"even the smallest size cannot make {LEAST_STEPS} steps within that budget and deadline on any machine that is priced"


def tokens_for_loss(config: RunConfig, goal: Goal) -> int | None:
    """Return the fewest tokens after which the goal's loss is expected; None where no reasonable number is enough."""
    loss = goal.loss or 0.0
    most = MOST_TOKENS_PER_PARAMETER * count_parameters(config.model).active
    if loss_law.loss(with_tokens(config, most, goal)).mid > loss:
        return None
    low, high = 1, most
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        if loss_law.loss(with_tokens(config, middle, goal)).mid <= loss:
            high = middle
        else:
            low = middle
    return _whole(config, high, up=True)


def with_tokens(config: RunConfig, tokens: int, goal: Goal) -> RunConfig:
    """Return the configuration with so many tokens, every one different as far as there is text."""
    unique = tokens if goal.unique_tokens is None else min(tokens, goal.unique_tokens)
    return replace(config, training=replace(config.training, tokens=tokens, unique_tokens=unique))


def _whole(config: RunConfig, tokens: int, *, up: bool) -> int:
    batch = config.training.global_batch_tokens
    return max(1, -(-tokens // batch) if up else tokens // batch) * batch


def _on(size: Size, machine: Machine, goal: Goal, wanted: int | None) -> Answer | None:
    """Return what a size reaches on a machine, None where it does not fit or not reach the goal."""
    laid = laid_out(size.config, machine.gpu, machine.count)
    if laid is None:
        return None
    if wanted is not None:
        made = _answer(size, laid, machine, wanted, goal)
        return made if _within(made, goal) else None
    config = laid.config
    batch = config.training.global_batch_tokens
    most = min(MOST_TOKENS, MOST_TOKENS_PER_PARAMETER * count_parameters(config.model).active) // batch
    low, high = LEAST_STEPS - 1, _first_guess(laid, machine, goal, most)
    while low < high:
        steps = (low + high + 1) // 2
        if _within(_answer(size, laid, machine, steps * batch, goal), goal):
            low = steps
        else:
            high = steps - 1
    return _answer(size, laid, machine, low * batch, goal) if low >= LEAST_STEPS else None


@lru_cache(maxsize=8192)
def laid_out(config: RunConfig, gpu: Gpu, count: int) -> Choice | None:
    """Return the layout of a configuration on GPUs, None where it does not fit or is not fit for them. It does not depend on tokens."""
    try:
        found = choose(with_layout(config, LayoutConfig()), gpu, count, frozenset())
    except (NoLayout, ConfigError):
        return None
    return found if found.fits else None


def _first_guess(laid: Choice, machine: Machine, goal: Goal, most: int) -> int:
    """Return steps that are surely too many: all of the time in steps, at the low speed that the high end goes by."""
    hours = [
        h for h in (goal.hours, float(goal.usd / machine.usd_per_hour) if goal.usd is not None and machine.usd_per_hour else None) if h
    ]
    if not hours:
        return most
    tokens = min(hours) * 3600 * laid.throughput.tokens_per_second.low
    return min(most, int(tokens // laid.config.training.global_batch_tokens) + 1)


def _answer(size: Size, laid: Choice, machine: Machine, tokens: int, goal: Goal) -> Answer:
    config = with_tokens(laid.config, tokens, goal)
    time = duration(config, machine, laid.throughput)
    usd, _ = costs(config, machine, time.hours)
    return Answer(
        config=config,
        machine=machine,
        changed=size.changed,
        parameters=count_parameters(config.model).active,
        memory_upper_gib=laid.memory.upper_gib,
        tokens_per_second=laid.throughput.tokens_per_second,
        hours=time.hours,
        usd=usd,
        loss=loss_law.loss(config),
    )


def _within(answer: Answer, goal: Goal) -> bool:
    return (goal.usd is None or answer.usd.high <= goal.usd) and (goal.hours is None or answer.hours.high <= goal.hours)
