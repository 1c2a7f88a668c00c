"""Counted memory against what torch really keeps for our own trainer: activations tensor by tensor, states byte by byte."""

import pytest
import torch

from lumina_cloud.planner import setting as settings
from lumina_cloud.planner import shape as shapes
from lumina_cloud.planner.activations import OUR_CHUNK_ELEMENTS, block
from lumina_cloud.planner.memory import OUR_BUCKET_ELEMENTS, memory
from tests.planner.conftest import CPU
from trainer.architectures import kept_bytes as kept_by_autograd
from trainer.config import ARCHS, LayoutConfig, ModelConfig, count_parameters, preset
from trainer.engine import BUCKET
from trainer.loss import CHUNK_ELEMENTS
from trainer.model import Model

SEQ_LEN, BATCH = 256, 2


def small(arch, **options):
    widths = {"d_model": 256, "n_heads": 4, "n_kv_heads": 2, "d_ff": 704, "d_expert": 352, "d_predictor": 16}
    return ModelConfig(arch=arch, vocab=512, n_layers=4, tie_embeddings=False, **widths, **options)


def kept_bytes(model, recompute):
    """Bytes that autograd keeps for the backward pass of all blocks, each storage once, weights and tables left out."""
    torch.manual_seed(0)
    built = Model(model, recompute_every=int(recompute)).to(torch.bfloat16)
    weights = {p.untyped_storage().data_ptr() for p in built.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    tokens = torch.randint(0, model.vocab, (BATCH, SEQ_LEN))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden, _ = built._hidden(tokens, causal=False)
        hidden.sum()
    return sum(kept.values())


VARIANTS = [
    *(small(arch) for arch in ARCHS),
    small("mod", mod_every=1, mod_capacity=0.5),
    small("hybrid", mod_every=1, mod_capacity=0.5),
    small("dense", qk_norm=True),
    small("moe", d_shared=128),
    preset("b1", "dense").model,
    preset("b1", "hybrid").model,
]


@pytest.mark.parametrize("model", VARIANTS, ids=lambda m: f"{m.arch}-{m.d_model}-{m.mod_capacity}-{m.qk_norm}-{m.d_shared}")
def test_activations_are_counted_as_autograd_keeps_them(model):
    shape = shapes.of_model(model, SEQ_LEN)
    setting = settings.of_layout(LayoutConfig(), SEQ_LEN, "bf16")
    plain, routed = block(shape, setting).stays.total, block(shape, setting, entering=shape.entering).stays.total
    # Beside the blocks: the last norm's input and its scale, the loss's gradient of it, and the tokens' own numbers; rotations of all
    # positions where a block meets them.
    beside = 2 * (2 * model.d_model) + 4 + 2 * 8 + (2 * (2 * shape.d_head) if shape.n_routed < shape.n_layers else 0)
    counted = (shape.n_layers - shape.n_routed) * plain + shape.n_routed * routed + beside
    assert counted == pytest.approx(kept_by_autograd(model, SEQ_LEN), rel=0.01)


@pytest.mark.parametrize("arch", ARCHS)
def test_recomputed_blocks_keep_their_input_alone(arch):
    model = small(arch)
    assert kept_bytes(model, recompute=True) < 0.35 * kept_bytes(model, recompute=False)


@pytest.mark.parametrize("arch", ARCHS)
def test_states_are_counted_to_the_byte(arch):
    config = preset("debug", arch)
    with torch.device("meta"):
        built = Model(config.model).to(torch.bfloat16)
    n_bytes = sum(p.numel() * p.element_size() for p in built.parameters())
    found = {item.name: item.gib * 2**30 for item in memory(config, LayoutConfig(), CPU).items}
    assert found["weights"] == pytest.approx(n_bytes)
    assert found["optimizer moments"] == pytest.approx(8 * count_parameters(config.model).total)


def test_the_loss_is_cut_as_the_trainer_cuts_it():
    assert OUR_CHUNK_ELEMENTS == CHUNK_ELEMENTS


def test_gradients_are_exchanged_in_buckets_of_the_engine():
    assert OUR_BUCKET_ELEMENTS == BUCKET
