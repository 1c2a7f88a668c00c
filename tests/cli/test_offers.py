"""What `lumina offers` says where no offer was seen: a market that did not answer is no empty one."""

import pytest
from rich.console import Console

from lumina_cloud.api.documents.of_markets import OffersDocument, ProviderFailure
from lumina_cloud.cli import tables_market

SILENT = ProviderFailure(provider="runpod", kind="unreachable", message="RunPod cannot be reached", hint="look at the network")


@pytest.mark.parametrize(
    ("failed", "said", "then"),
    [
        ([], "nothing of that kind is offered now", "lumina offers"),
        ([SILENT], "not everybody answered: runpod may have some", "lumina doctor"),
    ],
)
def test_no_answer_is_not_told_as_nothing_offered(failed, said, then):
    console = Console(width=120, record=True)
    console.print(*tables_market.offers(OffersDocument(asked_at="2026-01-01T00:00:00Z", offers=[], failed=failed), width=120), sep="\n")
    text = console.export_text()
    assert said in text
    assert f"next: {then}" in text
    assert failed == [] or "nothing of that kind" not in text
