"""One table of GPU names, read both ways; what is not in it is kept and never guessed."""

import httpx
import pytest

from lumina_cloud.catalog import gpus
from providers import gpu_names
from providers.contract import OfferQuery
from tests.providers.exchanges import load


@pytest.mark.parametrize("row", gpu_names.TABLE, ids=lambda row: row.name)
def test_every_name_is_in_the_catalog_and_comes_back_from_each_market(row):
    assert gpus.resolve(row.name).name == row.name
    if row.runpod:
        assert gpu_names.from_runpod(gpu_names.to_runpod(row.name)) == row.name
        assert gpus.resolve(row.runpod).name == row.name
    for name in gpu_names.to_vastai(row.name):
        assert gpu_names.from_vastai(name, row.vram_gib * 1024 * 0.98) == row.name
    for model in filter(None, row.lambda_model.split("|")):
        described = f"{model} ({row.vram_gib:.0f} GB {row.lambda_form})".replace(" )", ")")
        assert gpu_names.from_lambda(described) == (row.name, row.vram_gib)


@pytest.mark.parametrize("typed", ["4090", "rtx4090", "RTX 4090", "NVIDIA GeForce RTX 4090", "rtx-4090", "RTX_4090"])
def test_what_people_type_means_one_gpu(typed):
    assert gpu_names.to_runpod(gpus.resolve(typed).name) == "NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(
    ("vastai", "mib", "name"),
    [
        ("A100 SXM4", 40960, "A100-40GB-SXM"),
        ("A100 SXM4", 81920, "A100-80GB-SXM"),
        ("A100 PCIE", 40536, "A100-40GB-PCIe"),
        ("A100 PCIE", 81559, "A100-80GB-PCIe"),
        ("H100 SXM", 81559, "H100-80GB-SXM"),
        ("H100 NVL", 95830, "H100-NVL"),
        ("H200", 143771, "H200"),
        ("B200", 183359, "B200"),
        ("GH200 SXM", 97871, "GH200"),
        ("RTX 4090", 24564, "RTX4090"),
        # An RTX 4090 whose owner soldered on twice the memory is another machine than we know.
        ("RTX 4090", 49140, None),
        ("A100 SXM4", 65536, None),
        ("RTX PRO 6000 WS", 97887, None),
    ],
)
def test_memory_tells_apart_what_vastai_calls_by_one_name(vastai, mib, name):
    assert gpu_names.from_vastai(vastai, mib) == name


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("A10 (24 GB PCIe)", "A10"),
        ("A100 (40 GB SXM4)", "A100-40GB-SXM"),
        ("A100 (40 GB PCIe)", "A100-40GB-PCIe"),
        ("A100 (80 GB SXM4)", "A100-80GB-SXM"),
        ("H100 (80 GB SXM5)", "H100-80GB-SXM"),
        ("H100 (80 GB PCIe)", "H100-80GB-PCIe"),
        ("RTX A6000 (48 GB)", "A6000"),
        ("GH200 (96 GB)", "GH200"),
        ("Gaudi 3 (128 GB)", None),
        ("H100", None),
        ("", None),
    ],
)
def test_lambdas_descriptions(described, name):
    assert gpu_names.from_lambda(described)[0] == name


def test_an_unknown_gpu_is_kept_and_shown_clean(client):
    ask = load("vastai")["search on-demand"]["response"]["body"]["offers"][0]
    body = {"offers": [{**ask, "gpu_name": "RTX 9090\x1b]52;c;eA==\x07 Ti", "gpu_ram": 49152}]}
    (offer,) = client("vastai", lambda _r: httpx.Response(200, json=body)).offers(OfferQuery(interruptible=False))
    assert (offer.gpu, offer.gpu_known) == ("RTX 9090 Ti", False)
