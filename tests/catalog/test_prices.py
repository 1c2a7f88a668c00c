"""The price book: the published prices, what is derived from them, and the user's own."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.catalog import gpus, prices
from lumina_cloud.core.errors import UsageError

PUBLISHED = {
    ("vastai", "RTX4090", 1, True): Decimal("0.34"),
    ("vastai", "RTX3090", 1, True): Decimal("0.28"),
    ("runpod", "A100-40GB-PCIe", 1, False): Decimal("1.10"),
    ("runpod", "A100-80GB-PCIe", 1, False): Decimal("1.89"),
    ("runpod", "A100-80GB-PCIe", 2, False): Decimal("3.78"),
}


def by_key(book):
    return {price.key: price for price in book.prices}


def write(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_prices_are_the_default_with_their_source_and_no_invented_date():
    book = by_key(prices.load())
    for key, usd in PUBLISHED.items():
        assert book[key].usd_per_hour == usd
        assert book[key].date is None
        assert "undated" in book[key].source


def test_what_is_not_published_is_a_multiple_of_one_gpu_and_says_so():
    for price in prices.load().prices:
        if price.key not in PUBLISHED:
            single = PUBLISHED[(price.provider, price.gpu, 1, price.interruptible)]
            assert price.usd_per_hour == price.count * single
            assert price.source.startswith(f"derived: {price.count} x")


def test_no_two_prices_are_of_the_same_thing_and_all_gpus_are_known():
    book = prices.load().prices
    assert len({p.key for p in book}) == len(book)
    assert all(gpus.resolve(p.gpu).name == p.gpu for p in book)
    assert not [p for p in book if p.provider in ("lambda", "local")]


def test_the_users_price_replaces_the_default_and_what_is_derived_from_it(tmp_path):
    path = write(
        tmp_path, '[[prices]]\nprovider="vastai"\ngpu="4090"\nusd_per_hour="0.40"\ninterruptible=true\ndate=2026-02-03\nsource="seen"\n'
    )
    book = by_key(prices.load(path))
    assert book[("vastai", "RTX4090", 1, True)].usd_per_hour == Decimal("0.40")
    assert book[("vastai", "RTX4090", 1, True)].date == date(2026, 2, 3)
    assert book[("vastai", "RTX4090", 8, True)].usd_per_hour == Decimal("3.20")
    assert len(book) == len(prices.load().prices)


def test_the_users_price_adds_what_was_not_there(tmp_path):
    path = write(tmp_path, '[[prices]]\nprovider="lambda"\ngpu="h100"\ncount=8\nusd_per_hour=31.92\ndate="2026-09-20"\n')
    added = by_key(prices.load(path))[("lambda", "H100-80GB-SXM", 8, False)]
    assert added.usd_per_hour == Decimal("31.92")
    assert str(path) in added.source


def test_a_file_that_is_not_there_changes_nothing(tmp_path):
    assert prices.load(tmp_path / "none.toml") == prices.load()


GOOD = {"provider": '"vastai"', "gpu": '"4090"', "usd_per_hour": '"0.34"'}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("usd_per_hour", "0", "0"),
        ("usd_per_hour", '"0.00"', "0.00"),
        ("usd_per_hour", '"-0.34"', "-0.34"),
        ("usd_per_hour", "-1.5", "-1.5"),
        ("usd_per_hour", "nan", "nan"),
        ("usd_per_hour", "inf", "inf"),
        ("usd_per_hour", '"NaN"', "NaN"),
        ("usd_per_hour", '"cheap"', "cheap"),
        ("usd_per_hour", "true", "True"),
        ("usd_per_hour", '"1e-30"', "1e-30"),
        ("usd_per_hour", "[1]", "[1]"),
        ("provider", '"vast"', "vast"),
        ("provider", '"local"', "local"),
        ("provider", "3", "3"),
        ("gpu", '"RTX9090"', "RTX9090"),
        ("gpu", '"cpu"', "cpu"),
        ("count", "0", "0"),
        ("count", "1.5", "1.5"),
        ("count", "true", "True"),
        ("interruptible", '"yes"', "yes"),
        ("date", '"yesterday"', "yesterday"),
        ("usd_per_minute", "1", "usd_per_minute"),
    ],
)
def test_a_malformed_price_names_file_key_and_value(tmp_path, key, value, named):
    row = {**GOOD, key: value}
    path = write(tmp_path, "[[prices]]\n" + "".join(f"{k} = {v}\n" for k, v in row.items()))
    with pytest.raises(UsageError) as caught:
        prices.load(path)
    for part in (str(path), "prices[0]", key, named):
        assert part in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("missing", ["provider", "gpu", "usd_per_hour"])
def test_a_price_that_lacks_a_key_says_which(tmp_path, missing):
    path = write(tmp_path, "[[prices]]\n" + "".join(f"{k} = {v}\n" for k, v in GOOD.items() if k != missing))
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        prices.load(path)


@pytest.mark.parametrize("text", ["prices = 3\n", "prices = [1]\n", "[prices]\nusd = 1\n", "[[prices]\n", "= 1\n"])
def test_a_file_of_another_shape_is_refused_by_name(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        prices.load(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe\x00prices")
    with pytest.raises(UsageError, match="cannot read"):
        prices.load(path)


@given(st.decimals(min_value="0.01", max_value="1000", places=4))
def test_an_amount_comes_back_to_the_last_digit(tmp_path_factory, amount):
    path = write(tmp_path_factory.mktemp("prices"), f'[[prices]]\nprovider="lambda"\ngpu="A10"\nusd_per_hour="{amount}"\n')
    assert by_key(prices.load(path))[("lambda", "A10", 1, False)].usd_per_hour == amount
