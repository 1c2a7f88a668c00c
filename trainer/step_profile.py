"""Where a training step's time goes by kind of operator, ours beside `transformers`': what is left to gain, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.autograd import DeviceType

from trainer.bench import Shape, make_peer_step, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::_grouped_mm", "extern_kernels", "mkldnn"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention", "aten::_cudnn_attention"),
    "optimizer": ("aten::_fused_adamw", "Optimizer."),
}
"""By the beginnings of their operators' names; everything else is norms, rotation, activation, loss, copies, and what finds them."""
REST = "everything else"
STEPS = 3
SMALL, LARGE = Shape(), Shape(vocab=32_000)
CASES = (
    ("fp32", SMALL, "float32", False),
    ("bf16", SMALL, "bfloat16", False),
    ("fp32, vocabulary 32,000", LARGE, "float32", False),
    ("compiled, fp32", SMALL, "float32", True),
)


def profile(step: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Return the milliseconds a step of each kind of operator, in their own code, after two steps that warm up."""
    for _ in range(2):
        step()
    with torch.profiler.profile() as seen:
        for _ in range(STEPS):
            step()
    on_gpu = torch.cuda.is_available()
    spent = dict.fromkeys((*KINDS, REST), 0.0)
    for event in seen.key_averages():
        if event.device_type != DeviceType.CPU:
            # A kernel's own time is that of the operator that began it already.
            continue
        own = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / STEPS
        spent[next((kind for kind, names in KINDS.items() if event.key.startswith(names)), REST)] += own
    return spent


def profiles(*, compiled: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Return the profile of ours and of `transformers`' dense step by case; ours compiled is beside its eager one."""
    found = {}
    for case, shape, dtype, compiling in CASES:
        if compiled or not compiling:
            ours = step_of("dense", shape, dtype, compiled=compiling)
            found[case] = {"ours": profile(ours), "theirs": profile(make_peer_step("dense", shape, dtype))}
    return found


def section(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Return the profiles as a section of the page, each with what could be reached at most."""
    lines = [
        "## Where a dense step's time goes",
        "",
        "Milliseconds a step in operators' own code, by `torch.profiler`, which slows both sides alike. Products, attention and the fused",
        "optimizer are torch's own on both sides. *At most*: theirs over ours if everything else of ours took no time at all.",
        "",
        "| case | side | " + " | ".join((*KINDS, REST)) + " | whole | at most |",
        "| --- | --- |" + " ---: |" * (len(KINDS) + 3),
    ]
    for case, sides in found.items():
        bound = sum(sides["theirs"].values()) / sum(sides["ours"][kind] for kind in KINDS)
        for side, spent in sides.items():
            cells = [f"{spent[kind]:.0f}" for kind in (*KINDS, REST)]
            name = "ours" if side == "ours" else "`transformers`"
            lines.append(
                f"| {case} | {name} | {' | '.join(cells)} | {sum(spent.values()):.0f} | {f'{bound:.2f}' if side == 'ours' else ''} |"
            )
    return lines
