"""How an estimate came about, line by line, with the numbers to check it by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape


def lines(shape: Shape, setting: Setting, gpu: Gpu) -> list[str]:
    """Return the derivation of memory and speed."""
    return [f"{shape.parameters} {setting.framework} {gpu.name}"]
