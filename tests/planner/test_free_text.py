"""Free texts as published tables write them: each is read as what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.planner import free_text as ft

PARALLELISM = [
    # text, sharder, stage, tensor, pipeline, context, expert
    ("ZeRO-3, DP8", "zero", 3, 1, 1, 1, 1),
    ("ZeRO-2", "zero", 2, 1, 1, 1, 1),
    ("ZeRO-1 DP8", "zero", 1, 1, 1, 1, 1),
    ("ZeRO-3++, DP8", "zero", 3, 1, 1, 1, 1),
    ("zero stage 3", "zero", 3, 1, 1, 1, 1),
    ("DeepSpeed ZeRO Stage-2", "zero", 2, 1, 1, 1, 1),
    ("ZeRO-3 offload: optimizer to CPU; params to CPU", "zero", 3, 1, 1, 1, 1),
    ("FSDP full (ZeRO-3)", "fsdp", 3, 1, 1, 1, 1),
    ("FSDP grad_op (ZeRO-2)", "fsdp", 2, 1, 1, 1, 1),
    ("FSDP8 TP8 PP8 1F1B", "fsdp", 3, 8, 8, 1, 1),
    ("FSDP32 TP8 async", "fsdp", 3, 8, 1, 1, 1),
    ("FSDP 4, CP 2", "fsdp", 3, 1, 1, 2, 1),
    ("FSDP2 full shard, FSDP full 8", "fsdp", 3, 1, 1, 1, 1),
    ("FSDP8 CP1 TP8 PP8", "fsdp", 3, 8, 8, 1, 1),
    ("DP4 TP8 PP10 + ZeRO-1", "zero", 1, 8, 10, 1, 1),
    ("TP4+PP8+CP1+VP5", None, None, 4, 8, 1, 1),
    ("TP1+PP1+CP1+EP1 FSDP=8", "fsdp", 3, 1, 1, 1, 1),
    ("TP2+PP8+CP1+VP4+EP32", None, None, 2, 8, 1, 32),
    ("tensor parallel 4, pipeline-parallel=2", None, None, 4, 2, 1, 1),
    ("DDP", "ddp", 0, 1, 1, 1, 1),
    ("DDP + sharded Muon/AdamW", "ddp", 1, 1, 1, 1, 1),
    ("none (Muon state work distributed), DDP", "ddp", 1, 1, 1, 1, 1),
    ("single", "none", 0, 1, 1, 1, 1),
    ("none, single", "none", 0, 1, 1, 1, 1),
    (None, None, None, 1, 1, 1, 1),
    ("FULL_SHARD", "fsdp", 3, 1, 1, 1, 1),
    ("fully_shard, reshard_after_forward=False", "fsdp", 2, 1, 1, 1, 1),
    ("SHARD_GRAD_OP", "fsdp", 2, 1, 1, 1, 1),
    ("HSDP (replicate 4, shard 8)", "fsdp", 3, 1, 1, 1, 1),
    ("dp_shard=8 dp_replicate=2 tp=2", "fsdp", 3, 2, 1, 1, 1),
    ("FSDP8xTP4", "fsdp", 3, 4, 1, 1, 1),
    ("fsdp:8,tensor:4", "fsdp", 3, 4, 1, 1, 1),
    ("zero_stage=3", "zero", 3, 1, 1, 1, 1),
    ("ds_z2", "zero", 2, 1, 1, 1, 1),
    ("ZeRO-Infinity", "zero", 3, 1, 1, 1, 1),
    ("ZeRO++", "zero", 3, 1, 1, 1, 1),
    ("ColossalAI Gemini", "zero", 3, 1, 1, 1, 1),
    ("DDP + ZeroRedundancyOptimizer", "ddp", 1, 1, 1, 1, 1),
    ("TP4 PP2 distributed optimizer", "ddp", 1, 4, 2, 1, 1),
    ("tensor-model-parallel-size 8 pipeline-model-parallel-size 4", None, None, 8, 4, 1, 1),
    ("8-way tensor parallel, 4-way PP", None, None, 8, 4, 1, 1),
    ("tp2pp4", None, None, 2, 4, 1, 1),
    ("MP8", None, None, 8, 1, 1, 1),
    ("TP8 SP8", None, None, 8, 1, 1, 1),
    ("DeepSpeed-Ulysses SP4 + ZeRO-3", "zero", 3, 1, 1, 4, 1),
    ("DualPipe PP16 EP64", None, None, 1, 16, 1, 64),
    ("zero bubble PP8", None, None, 1, 8, 1, 1),
]


@pytest.mark.parametrize("row", PARALLELISM, ids=lambda row: str(row[0]))
def test_parallelism(row):
    text, *expected = row
    found = ft.spread(text)
    assert [found.sharder, found.stage, found.tensor, found.pipeline, found.context, found.expert] == expected


def test_the_number_beside_fsdp_may_be_a_degree_or_a_version():
    assert ft.spread("FSDP2 full shard, FSDP full 8").fsdp == (2, 8)
    assert ft.spread("FSDP2 CP4 TP8 PP8").fsdp == (2,)
    assert ft.spread("FSDP full (ZeRO-3)").fsdp == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("bf16", "bf16"),
        ("bf16-true (pure bf16) + AdamW", "bf16"),
        ("amp_bf16 (DEFAULT) + decoupled AdamW", "bf16"),
        ("amp_fp8 (DEFAULT) + decoupled AdamW", "fp8"),
        ("fp8: FSDP2 bf16 param / fp32 reduce, fp32 sharded master + AdamW fp32", "fp8"),
        ("bf16: FSDP2 bf16 param / fp32 reduce, fp32 sharded master + AdamW fp32", "bf16"),
        ("fp16 + fp32 master/Adam, ZeRO-1 over DP", "fp16"),
        ("bf16/fp16 mixed + AdamW", "bf16"),
        ("bf16 or fp8; Muon + AdamW sharded", "bf16"),
        ("MXFP8", "fp8"),
        ("float16", "fp16"),
        ("16-mixed", "fp16"),
        ("32-true", "fp32"),
        ("fp32", "fp32"),
        ("TF32", "tf32"),
        ("4-bit NF4", "bf16"),
        ("as the row above", None),
        ("p=f32,c=bf16", "bf16"),
        ("pure_bf16", "bf16"),
        ("AMP O2 fp16", "fp16"),
        ("unknown", None),
        ("-", None),
        (None, None),
    ],
)
def test_precision(text, kind):
    assert ft.arithmetic(text) == kind


@pytest.mark.parametrize(
    ("precision", "optimizer", "sharder", "name", "total"),
    [
        ("bf16", "adamw", "zero", "deepspeed", 16),
        ("amp_bf16 (DEFAULT)", "decoupled AdamW", "fsdp", "llm-foundry", 16),
        ("bf16-true (pure bf16) + AdamW", None, "fsdp", "litgpt", 8),
        ("bf16 pure + AdamW bf16 states", None, "none", "torchtune", 8),
        ("bf16", "8-bit AdamW", "none", "torchtune", 6),
        ("bf16", "bnb adamw8bit", "zero", "deepspeed", 10),
        ("bf16", "Adafactor", "zero", "deepspeed", 8.05),
        ("bf16", "GaLore AdamW", "zero", "deepspeed", 10),
        ("bf16", "SGD", "zero", "deepspeed", 8),
        ("bf16", "Lion", "zero", "deepspeed", 12),
        ("fp32", "adamw", "ddp", "pytorch", 16),
        ("bf16", "adamw", "ddp", "nanogpt", 18),
        ("bf16", "adam", "none", "megatron-lm", 18),
        ("bf16", "adamw fused, fused_opt_states_bf16", "fsdp", "torchtitan", 12),
        ("full bf16", "adamw", "none", "huggingface", 8),
        ("bf16 params + bf16 optimizer states", "AdamW", "none", "other", 8),
        ("bf16 without master weights", "AdamW fp32 states", "none", "other", 12),
        ("p=bf16,c=bf16", "AdamW", "fsdp", "jax", 8),
        ("p=f32,c=bf16", "AdamW", "fsdp", "jax", 16),
        ("bf16 AMP O2", "FusedAdam", "ddp", "other", 16),
        ("bf16", "AdamW (4-bit states)", "none", "torchtune", 5),
        ("bf16", "Adam-mini", "fsdp", "pytorch", 12),
        ("bf16", "paged_adamw_8bit", "fsdp", "huggingface", 10),
        ("bf16 (PURE)", "decoupled AdamW", "fsdp", "llm-foundry", 16),
    ],
)
def test_bytes_per_parameter(precision, optimizer, sharder, name, total):
    s = ft.states(precision, optimizer, sharder=sharder, name=name, kind=ft.arithmetic(precision))
    assert s.weights + s.gradients + s.master + s.moments + s.cast == pytest.approx(total)


@pytest.mark.parametrize(("text", "share"), [("LoRA r=8", 0.01), ("QLoRA nf4", 0.01), ("bf16 AdamW", 1.0)])
def test_adapters_train_few_parameters(text, share):
    assert ft.states("bf16", text, sharder="none", name="other", kind="bf16").trained == share


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("full", "full"), ("every layer", "full"), ("1", "full"), ("True", "full"), ("yes", "full"), ("block", "full"),
        ("selective", "selective"), ("selective op", "selective"), ("every 2nd layer", "full"), ("attention only", "selective"),
        ("every 2 layers", "full"), ("8 of 32 layers", "full"), ("full (every layer)", "full"), ("remat nothing_saveable", "full"),
        ("dots_saveable", "selective"), ("FFN only", "selective"), ("gradient_checkpointing=False", "none"), ("not used", "none"),
        ("0.0", "none"), ("None (no AC)", "none"), ("w/o", "none"), ("unsloth", "full"), ("-", None), ("unknown", None),
        ("none", "none"), ("no", "none"), ("False", "none"), ("off", "none"), ("0", "none"), ("", None), (None, None),
    ],
)  # fmt: skip
def test_recomputation(text, meant):
    assert ft.recompute(text) == meant


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("full", 1),
        ("every 2 layers", 2),
        ("every other block", 2),
        ("8 of 32 layers", 4),
        ("50%", 2),
        ("selective 3", 3),
        ("32 of 32", 1),
        (None, 1),
    ],
)
def test_which_blocks_are_recomputed(text, every):
    assert ft.recompute_every(text) == every


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("optimizer to CPU", "optimizer"), ("optimizer to CPU; params to CPU", "optimizer+parameters"), ("none", "none"), (None, "none"),
        ("ZeRO-Offload", "optimizer"), ("CPU offload", "optimizer"), ("FSDP CPU offload", "optimizer+parameters"),
        ("activation offload", "none"), ("cpu", "optimizer"), ("False", "none"), ("paged AdamW", "optimizer"),
        ("optimizer", "optimizer"), ("optimizer+params", "optimizer+parameters"), ("true", "optimizer"), ("no offload", "none"),
        ("offload_optimizer: none", "none"), ("offload_optimizer cpu, offload_param cpu", "optimizer+parameters"), ("NVMe", "optimizer"),
        ("none (all on GPU)", "none"), ("ZeRO-Infinity NVMe", "optimizer+parameters"), ("DeepSpeedCPUAdam", "optimizer"),
        ("optimizer to CPU (params not offloaded)", "optimizer"), ("params stay on GPU, optimizer offloaded", "optimizer"),
    ],
)  # fmt: skip
def test_offload(text, meant):
    assert ft.offload(text) == meant
    assert ft.activations_to_host(text) == (text == "activation offload")


@pytest.mark.parametrize(
    ("text", "there"),
    [("full AC + CPU offload", True), ("unsloth", True), ("cpu_checkpointing", True), ("full", False), ("full, no offload", False)],
)
def test_recomputation_whose_inputs_move_to_the_host(text, there):
    assert ft.activations_to_host(None, text) is there


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("flash", "fused"),
        ("FlashAttention-2", "fused"),
        ("sdpa", "fused"),
        ("xformers", "fused"),
        ("eager", "eager"),
        ("math", "eager"),
        ("standard", "eager"),
        ("fused softmax", "eager"),
        ("standard (SDPA)", "fused"),
        ("no flash", "eager"),
        ("FA3", "fused"),
        ("unknown", None),
        (None, None),
    ],
)
def test_attention(text, meant):
    assert ft.attention(text) == meant


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llm-foundry/composer", "llm-foundry"), ("torchtitan", "torchtitan"), ("torchtune full_finetune_single_device", "torchtune"),
        ("nanochat (FA3)", "nanochat"), ("PyTorch 2.4.1+cu121", "modded-nanogpt"), ("PyTorch nightly", "modded-flex"),
        ("PyTorch (modded nanoGPT)", "nanogpt-speedrun"), ("nanoGPT (PyTorch 2)", "nanogpt"), ("llm.c (C/CUDA, cuDNN attention)", "llm.c"),
        ("DeepSpeed 0.14.2 + HF", "deepspeed"), ("Megatron-DeepSpeed", "megatron-deepspeed"), ("NeMo/Megatron-Core", "nemo"),
        ("Megatron-Bridge", "megatron-bridge"), ("Megatron-LM", "megatron-lm"), ("LitGPT", "litgpt"),
        ("HF Trainer, transformers", "huggingface"),
        ("Unsloth", "liger"), ("Levanter (JAX)", "jax"), ("MaxText", "jax"), ("LLaMA-Factory", "huggingface"), ("axolotl", "huggingface"),
        ("MosaicML Composer", "llm-foundry"),
        ("PyTorch Lightning", "pytorch"), ("DeepSpeed-Chat", "deepspeed"), ("NeMo 2.0", "nemo"), ("ColossalAI", "other"),
        ("something new", "other"),
    ],
)  # fmt: skip
def test_frameworks(text, name):
    assert ft.framework(text) == (name, False)


def test_a_framework_that_is_not_named_is_known_by_its_words():
    assert ft.framework(None, "amp_bf16 (DEFAULT) + decoupled AdamW") == ("llm-foundry", True)
    assert ft.framework(None, "bf16-true (pure bf16) + AdamW") == ("litgpt", True)
    assert ft.framework(None, "fp16 + fp32 master/Adam, ZeRO-1 over DP") == ("megatron-deepspeed", True)
    assert ft.framework(None, "bf16/fp16 mixed + AdamW", None, "ZeRO-2, DP8") == ("deepspeed", True)
    assert ft.framework(None, "fp16 + fp32 master/Adam", None, "DP1 TP4 PP16") == ("megatron-lm", True)
    assert ft.framework(None, None) == ("other", True)


@pytest.mark.parametrize(
    ("value", "meant"), [("torch.compile", True), ("w/o compile", False), ("disabled", False), ("eager", False), ("-", None)]
)
def test_yes_and_no(value, meant):
    assert ft.is_true(value) is meant


@pytest.mark.parametrize(
    ("text", "nodes", "network", "link", "pcie"),
    [
        ("1600 Gbps node-node RoCE; NVLink node", None, 25.0, None, False),
        ("8x H100 NVLink hosts; 400 Gb/s per GPU RDMA", 8, 50.0, None, False),
        ("PCIe, no NVLink", None, None, None, True),
        ("A800: NVLink limited to 400 GB/s", None, None, 200.0, False),
        ("Jean Zay: NVLink node, 4x Omni-Path 100 per node", None, 6.25, None, False),
        ("Jean Zay 4x V100 per node, NVLink, Omni-Path", 4, 12.5, None, False),
        ("8x400G InfiniBand", None, 50.0, None, False),
        ("50 GB/s per GPU", None, 50.0, None, False),
        ("3.2 Tbps EFA", None, 50.0, None, False),
        ("10 GbE", None, 10 / 64, None, False),
        ("NVLink 600 GB/s", None, None, None, False),
        ("4x A100 per node, 4x HDR 200", 4, 25.0, None, False),
        ("PCIe 4.0 x16", None, None, None, True),
        (None, None, None, None, False),
    ],
)
def test_links(text, nodes, network, link, pcie):
    found = ft.links(text)
    assert (found.gpus_per_node, found.network_gb_s, found.link_gb_s, found.is_pcie) == (nodes, network, link, pcie)


@given(st.one_of(st.none(), st.text(max_size=60), st.booleans(), st.integers(), st.floats()))
def test_no_text_is_too_odd(text):
    ft.spread(text)
    ft.links(text)
    kind = ft.arithmetic(text) or "bf16"
    ft.states(text, text, sharder="fsdp", name="other", kind=kind)
    assert ft.recompute(text) in (None, "none", "selective", "full")
    assert ft.offload(text) in ("none", "optimizer", "optimizer+parameters")
    assert ft.attention(text) in (None, "fused", "eager")
    assert ft.is_true(text) in (None, True, False)
    assert isinstance(ft.framework(text)[0], str)
