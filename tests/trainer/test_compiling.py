"""A compiler is trusted only where it is right: a wrong gradient would train on without a word."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trainer.compiling import TOLERANCE, checked, gradient_difference
from trainer.config import ARCHS, preset

RIGHT = "aot_eager"


def wrong(graph, _inputs):
    """A compiler whose code leaves a twentieth of the loss out."""

    def run(*inputs):
        loss, *others = graph(*inputs)
        return (loss * 0.95, *others)

    return run


def compiling(arch):
    config = preset("b1", arch)
    return replace(config, device="cpu", layout=replace(config.layout, compile="on"))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_compiled_gradient_is_the_models(arch):
    """What goes through the check is right by far more than its tolerance: nobody loses compilation to rounding."""
    assert gradient_difference(preset("b1", arch).model, "cpu", RIGHT) < TOLERANCE / 1000


@pytest.mark.parametrize(("backend", "expected"), [(RIGHT, "on"), (wrong, "off")], ids=["right", "wrong"])
def test_a_wrong_compiler_is_left_out_and_named(backend, expected):
    said = []
    assert checked(compiling("dense"), said.append, backend).layout.compile == expected
    assert (not said) if expected == "on" else ("5%" in said[0] and torch.__version__ in said[0])


def test_a_run_that_does_not_compile_asks_nothing():
    config = replace(compiling("dense"), layout=replace(compiling("dense").layout, compile="off"))
    assert checked(config, pytest.fail, backend=pytest.fail) is config
