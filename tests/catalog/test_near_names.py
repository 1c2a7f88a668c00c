"""Names of accelerators as foreign tables write them, what providers charge beside the hour, and published measurements."""

from decimal import Decimal

import pytest

from lumina_cloud.catalog import measured, near_names
from lumina_cloud.catalog.gpus import all_gpus
from lumina_cloud.catalog.prices import PROVIDERS
from lumina_cloud.catalog.terms import terms
from lumina_cloud.core.errors import UsageError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("A100-80GB-SXM", "A100-80GB-SXM"), ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"), ("A100 80GB PCIe", "A100-80GB-PCIe"),
        ("A100 SXM4 40 GB", "A100-40GB-SXM"), ("H100 SXM5", "H100-80GB-SXM"), ("NVIDIA H100 80GB HBM3", "H100-80GB-SXM"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"), ("GeForce RTX 4090", "RTX4090"), ("A10G", "A10G"), ("NVIDIA A10G (24 GB)", "A10G"),
        ("A800", "A800-80GB-SXM"), ("RTX 3090 Ti", "RTX3090Ti"), ("H200 141GB", "H200"), ("L40S 48GB", "L40S"), ("B200 SXM", "B200"),
    ],
)  # fmt: skip
def test_one_device_under_many_names(written, meant):
    assert near_names.nearest(written)[0].name == meant


def test_a_family_stands_for_its_smallest_and_says_so():
    gpu, note = near_names.nearest("V100")
    assert (gpu.name, note) == ("V100-16GB", "gpu=V100-16GB")


@pytest.mark.parametrize("name", ["A10", "RTX4080", "Voodoo 2", "TPU v4", "H20", ""])
def test_what_is_not_safe_is_not_matched(name):
    if name == "A10":
        assert near_names.nearest(name)[0].bf16_tflops == 125
        return
    with pytest.raises(UsageError):
        near_names.nearest(name)


def test_every_device_of_the_catalog_is_nearest_to_itself():
    for gpu in all_gpus():
        assert near_names.nearest(gpu.name) == (gpu, None)
        assert near_names.nearest(gpu.full_name)[0] == gpu


def test_every_provider_has_terms_with_date_and_source():
    for provider in (*PROVIDERS, "local"):
        its = terms(provider)
        assert its.provider == provider
        assert its.source
        assert its.billing_seconds >= 1
        assert Decimal(0) <= its.storage_usd_per_gib_month < 1
        assert list(its.start_minutes) == sorted(its.start_minutes)
    assert terms("lambda").billing_seconds == 60
    assert terms("nobody yet").storage_usd_per_gib_month == max(terms(p).storage_usd_per_gib_month for p in PROVIDERS)


def test_measurements_are_read_with_their_gpus_known():
    assert len(measured.speeds()) > 200
    assert len(measured.memories()) > 150
    for row in (*measured.speeds(), *measured.memories()):
        near_names.nearest(row.text("gpu"))
        assert row.number("tokens_per_sec_per_gpu") is None or row.number("tokens_per_sec_per_gpu") > 0
