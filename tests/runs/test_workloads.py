"""From options to workloads: tokens, epochs and data agree, and every refusal names what was typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core.errors import DataError, UsageError
from lumina_cloud.runs import workloads
from lumina_cloud.runs.workloads import WorkloadRequest


def training(**options):
    return workloads.build(WorkloadRequest(model="debug", **options)).configs[0].training


def test_the_presets_totals_are_fixed_and_less_text_means_more_epochs():
    assert training().tokens == 50_000_000
    few = training(unique_tokens="5M")
    assert (few.tokens, few.unique_tokens, few.epochs) == (50_000_000, 5_000_000, 10.0)


@given(st.integers(1, 10**12), st.floats(0.5, 100))
def test_tokens_and_epochs_give_unique_tokens(tokens, epochs):
    t = training(tokens=str(tokens), epochs=epochs)
    assert t.tokens == tokens
    assert 1 <= t.unique_tokens <= tokens
    assert t.unique_tokens == max(1, min(tokens, round(tokens / epochs)))


def test_epochs_alone_repeat_the_presets_text():
    t = training(epochs=2.0)
    assert (t.tokens, t.unique_tokens) == (33_400_000, 16_700_000)


def test_chinchilla_is_twenty_tokens_an_active_parameter():
    built = workloads.build(WorkloadRequest(model="b1", tokens="chinchilla"))
    assert built.configs[0].training.tokens == 20 * workloads.parameters(built.configs[0]).active


def test_a_set_layout_field_is_the_users(tmp_path):
    built = workloads.build(WorkloadRequest(model="b1", settings=(("micro_batch", "4"), ("zero_stage", "2"))))
    assert built.fixed == {"micro_batch", "zero_stage"}
    assert built.configs[0].layout.grad_accum == 64


def test_notes_say_where_the_text_comes_from_and_how_often_it_is_seen():
    assert any("Hugging Face" in note for note in workloads.build(WorkloadRequest(model="b1")).notes)
    assert any("3.0 epochs" in note for note in workloads.build(WorkloadRequest(model="debug")).notes)


def test_own_text_is_estimated_and_repeated(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 20_000)
    built = workloads.build(WorkloadRequest(model="debug", data=str(tmp_path), tokens="10M"))
    assert 20_000 < built.configs[0].training.unique_tokens < 100_000
    assert built.configs[0].data.source == str(tmp_path)
    assert any("more text would" in note for note in built.notes)


@pytest.mark.parametrize(
    ("name", "content", "good"),
    [
        ("a.txt", b"text " * 1000, True),
        ("a.txt", b"", False),
        ("a.txt", b"  \n\t", False),
        ("a.txt", b"\x89PNG\0\0", False),
        ("a.txt", "caf\u00e9 ".encode() * 2000, True),
        ("a.bin", b"text", False),
        ("a.parquet", b"nothing", False),
        (".hidden/a.txt", b"text", False),
    ],
)
def test_what_is_text(tmp_path, name, content, good):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    request = WorkloadRequest(model="debug", data=str(tmp_path))
    if good:
        workloads.build(request)
    else:
        with pytest.raises(DataError, match="no text"):
            workloads.build(request)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("text")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError):
        workloads.build(WorkloadRequest(model="debug", data=str(tmp_path / "data")))


@given(st.text(max_size=12))
def test_any_text_for_tokens_is_a_number_or_a_refusal(text):
    try:
        t = training(tokens=text or "x")
    except UsageError as error:
        assert error.message
        assert error.hint
    else:
        assert t.tokens > 0


@given(
    st.sampled_from(["d_model", "seq_len", "lr", "precision", "tie_embeddings", "nope", "beta1", "micro_batch"]),
    st.text(min_size=1, max_size=8),
)
def test_any_setting_is_accepted_or_refused_in_words(name, value):
    try:
        workloads.build(WorkloadRequest(model="debug", archs=("hybrid",), settings=((name, value),)))
    except UsageError as error:
        assert error.message
        assert error.hint
