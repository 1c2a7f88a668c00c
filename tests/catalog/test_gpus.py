"""The GPU catalog: every device, its figures with their sources, and the names people type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus
from lumina_cloud.core.errors import UsageError

# Typed by hand, independently of the data file: name, GiB, GB/s, bf16 TFLOP/s.
FIGURES = {
    "RTX3090": (24, 936, 71),
    "RTX4090": (24, 1008, 165.2),
    "RTX5090": (32, 1792, 209.5),
    "A4000": (16, 448, 76.7),
    "A5000": (24, 768, 111.1),
    "A6000": (48, 768, 154.8),
    "RTX6000Ada": (48, 960, 364.2),
    "A10": (24, 600, 125),
    "A40": (48, 696, 149.7),
    "L4": (24, 300, 121),
    "L40": (48, 864, 181),
    "L40S": (48, 864, 362),
    "V100-16GB": (16, 900, None),
    "V100-32GB": (32, 900, None),
    "T4": (16, 320, None),
    "A100-40GB-PCIe": (40, 1555, 312),
    "A100-40GB-SXM": (40, 1555, 312),
    "A100-80GB-PCIe": (80, 1935, 312),
    "A100-80GB-SXM": (80, 2039, 312),
    "H100-80GB-PCIe": (80, 2000, 756),
    "H100-80GB-SXM": (80, 3350, 989),
    "H100-NVL": (94, 3938, 835),
    "H200": (141, 4800, 989),
    "GH200": (96, 4000, 989),
    "B200": (180, 8000, 2250),
    "MI250X": (128, 3277, 383),
    "MI300X": (192, 5300, 1307),
}


def test_every_device_is_there_with_its_figures():
    assert {g.name: (g.memory_gib, g.bandwidth_gb_s, g.bf16_tflops) for g in gpus.all_gpus()} == FIGURES


def test_usable_memory_is_below_the_label_and_known_for_all_but_the_two_device_card():
    unknown = [g.name for g in gpus.all_gpus() if g.usable_memory_gib is None]
    assert unknown == ["MI250X"]
    for g in gpus.all_gpus():
        if g.usable_memory_gib is not None:
            assert 0.9 * g.memory_gib < g.usable_memory_gib < g.memory_gib
    assert gpus.resolve("RTX4090").usable_memory_gib == pytest.approx(23.65, abs=0.005)


def test_a_measured_product_is_never_far_above_the_peak():
    for g in gpus.all_gpus():
        if g.matmul_best_tflops is not None:
            assert g.bf16_tflops is not None
            assert g.matmul_best_tflops < 1.03 * g.bf16_tflops


def test_each_figure_says_whether_its_source_was_read():
    rtx = gpus.resolve("RTX4090")
    assert rtx.is_verified("bf16_tflops")
    assert "nanochat" in rtx.source("bf16_tflops")
    assert not rtx.is_verified("bandwidth_gb_s")
    assert "from memory" in rtx.source("bandwidth_gb_s")
    for g in gpus.all_gpus():
        for figure, _ in g.checked:
            assert getattr(g, figure) is not None, (g.name, figure)
            assert g.source(figure) not in dict(g.checked).values(), "the name of a source instead of its text"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("4090", "RTX4090"),
        ("rtx4090", "RTX4090"),
        ("RTX 4090", "RTX4090"),
        ("RTX_4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("3090", "RTX3090"),
        ("a100-80gb", "A100-80GB-PCIe"),
        ("A100 80GB", "A100-80GB-PCIe"),
        ("a100 40gb", "A100-40GB-PCIe"),
        ("a100", "A100-80GB-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB-PCIe"),
        ("h100", "H100-80GB-SXM"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB-SXM"),
        ("NVIDIA H100 PCIe", "H100-80GB-PCIe"),
        ("Tesla T4", "T4"),
        ("l40s", "L40S"),
        ("AMD Instinct MI300X", "MI300X"),
        ("CPU", "cpu"),
    ],
)
def test_the_names_people_type(typed, meant):
    assert gpus.resolve(typed).name == meant


def test_every_name_and_alias_means_one_device_only():
    seen = {}
    for g in gpus.all_gpus():
        for name in (g.name, g.full_name, *g.aliases, *g.default_for):
            assert gpus.resolve(name) is g
            assert seen.setdefault(name.lower(), g) is g


@pytest.mark.parametrize(
    ("typed", "near"), [("RTX4080", "RTX4090"), ("409O", "RTX4090"), ("A1000-80GB-PCIe", "A100-80GB-PCIe"), ("cpus", "cpu")]
)
def test_a_misspelt_name_is_refused_with_the_near_miss(typed, near):
    with pytest.raises(UsageError) as caught:
        gpus.resolve(typed)
    assert repr(typed) in caught.value.message
    assert f"did you mean '{near}'" in caught.value.hint


def test_a_name_that_could_be_two_devices_asks_which():
    with pytest.raises(UsageError, match="V100-16GB or V100-32GB"):
        gpus.resolve("v100")


@given(st.text(max_size=40))
def test_any_text_is_a_device_or_one_clear_error(text):
    try:
        gpus.resolve(text)
    except UsageError as error:
        assert error.hint


def test_this_computers_processor_has_the_shape_of_a_gpu():
    two, four = gpus.cpu(cores=2, memory_gib=20.5), gpus.cpu(cores=4, memory_gib=20.5)
    assert two.device == "cpu"
    assert two.usable_memory_gib == pytest.approx(20.5)
    assert four.peak_tflops("bf16") == pytest.approx(2 * two.peak_tflops("bf16"))
    assert two.peak_tflops("fp16") is None
    assert "measured" in two.source("bf16_tflops")
