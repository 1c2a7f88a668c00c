"""What makes a workload fit: every set is enough, no part of it is, and the trainer takes it."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_cloud.api.refitting import judged_example
from lumina_cloud.planner.memory import memory
from lumina_cloud.planner.remedies import need, plain, remedies
from tests.planner.conftest import machine, machines, workloads
from trainer.config import LayoutConfig, check, preset


@settings(max_examples=40)
@given(workloads(), machines(), st.sampled_from([1, 4]))
def test_every_set_fits_and_can_be_trained(config, on, micro_batch):
    config = replace(config, layout=LayoutConfig(micro_batch=micro_batch))
    found = remedies(config, on, frozenset({"micro_batch"}))
    for remedy in found:
        check(remedy.config)
        assert remedy.memory_upper_gib <= on.gpu.usable_memory_gib
        assert memory(remedy.config, remedy.config.layout, on.gpu).upper_gib == remedy.memory_upper_gib
        assert remedy.config.layout.n_gpus == remedy.machine.count
        assert remedy.config.training.tokens == config.training.tokens
    slowdowns = [remedy.slowdown for remedy in found]
    assert slowdowns == sorted(slowdowns)
    names = [frozenset(c.name for c in remedy.changes) for remedy in found]
    assert not any(a < b for a in names for b in names if {"offload", "zero_stage"}.isdisjoint(a))


def test_nothing_is_changed_where_it_fits():
    assert remedies(preset("debug200m", "dense"), machine("RTX4090")) == ()


def test_each_single_tip_of_the_document_can_be_a_remedy():
    card = machine("RTX4090")
    config = preset("debug200m", "dense")
    wide = replace(config, layout=replace(config.layout, micro_batch=64))
    found = remedies(wide, card, frozenset({"micro_batch"}))
    sets = [{c.name for c in remedy.changes} for remedy in found]
    assert {"micro_batch"} in sets
    assert {"checkpointing"} in sets
    experts = remedies(preset("b1", "moe"), card)
    assert any({(c.name, c.after) for c in remedy.changes} == {("arch", "mod")} for remedy in experts)


def test_seven_billion_on_forty_gb_needs_sharding_or_the_host_and_no_shorter_sequence_helps():
    card = machine("A100-40GB-PCIe")
    found = remedies(preset("b7", "dense"), card)
    assert found
    for remedy in found:
        names = {c.name for c in remedy.changes}
        assert names & {"offload", "zero_stage"}
        assert "seq_len" not in names
    shorter = replace(preset("b7", "dense").training, seq_len=1536, global_batch_tokens=682 * 1536)
    start = plain(replace(preset("b7", "dense"), training=shorter), card, frozenset())
    assert need(start, card).states_gib > card.gpu.usable_memory_gib
    text, fits = judged_example()
    assert not fits
    assert "38.2" in text
    assert "does not fit" in text
