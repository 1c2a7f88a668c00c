"""docs/clouds.md says what the code does."""

import re
from pathlib import Path

import pytest

from lumina_cloud.core import errors
from providers import contract, credentials
from providers.lambda_cloud import LambdaCloud
from providers.local import LocalProvider
from providers.runpod import RunPod
from providers.vastai import VastAi

PAGE = (Path(__file__).parents[2] / "docs" / "clouds.md").read_text()
PROVIDERS = {"runpod": RunPod, "vastai": VastAi, "lambda": LambdaCloud, "local": LocalProvider}


def rows(first):
    """Return the cells of a table by its first column's title."""
    table = PAGE.split(f"| {first} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_of_abilities_is_what_the_clients_have():
    said = {(row[0], name): cell for row in rows("ability") for name, cell in zip(PROVIDERS, row[1:], strict=True)}
    abilities = [name for name in vars(contract) if getattr(getattr(contract, name), "_is_runtime_protocol", False)]
    has = {
        (ability, name): "yes" if isinstance(kind.__new__(kind), getattr(contract, ability)) else "no"
        for ability in abilities
        for name, kind in PROVIDERS.items()
    }
    assert said == has


def test_keys_and_addresses_are_where_the_page_says():
    for name, key, address in rows("provider"):
        cloud = credentials.CLOUDS[name]
        assert [v for v in re.findall(r"`([^`]+)`", key) if v.isupper()] == list(cloud.variables)
        files = [str(path).replace("/home/you", "~") for path in cloud.files({"HOME": "/home/you"})]
        assert [v for v in re.findall(r"`([^`]+)`", key) if v.startswith("~")] == files
        assert [v for v in re.findall(r"`([^`]+)`", address) if v.isupper()] == list(cloud.url_variables)


@pytest.mark.pain(14)
@pytest.mark.parametrize("row", rows("error"), ids=lambda row: row[0])
def test_errors_and_exit_codes(row):
    assert getattr(errors, row[0]).exit_code == int(row[1])
