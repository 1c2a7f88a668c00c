"""Export and import: `transformers` loads each model, gives the same logits and text, and what it saves comes back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.trainer.checkpoints import written
from tests.trainer.shapes import VARIANTS, built, small, tokens
from trainer import hf_config, weights
from trainer.config import ConfigError
from trainer.errors import DataError
from trainer.export import export
from trainer.importing import import_model
from trainer.sample import generate, sample

CLASSES = {
    "dense": "LlamaForCausalLM",
    "dense-untied": "LlamaForCausalLM",
    "moe": "MixtralForCausalLM",
    "dense-qk-norm": "Qwen3ForCausalLM",
    "moe-qk-norm": "Qwen3MoeForCausalLM",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_computes_the_same(variant, tmp_path):
    config = small(variant)
    model = built(config).eval()
    folder = written(model, tmp_path / "run")
    assert export(folder, tmp_path / "hf") == CLASSES.get(variant, "LuminaForCausalLM")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    assert type(theirs).__name__ == CLASSES.get(variant, "LuminaForCausalLM")
    ids = tokens(config, 3, 48)
    with torch.no_grad():
        assert (theirs(ids).logits - model.logits(ids)).abs().max() <= 1e-4
    # The same text, greedily, for 40 tokens: their cache against ours.
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    our_tokenizer = weights.find(folder).tokenizer()
    prompt = "def softmax(x):"
    encoded = their_tokenizer(prompt, return_tensors="pt").input_ids
    assert encoded[0].tolist() == our_tokenizer.encode([prompt])[0]
    out = theirs.generate(encoded, do_sample=False, max_new_tokens=40)[0, encoded.shape[1] :]
    ours = sample(model, our_tokenizer, prompt, new_tokens=40, temperature=0, seed=0)
    assert their_tokenizer.decode(out, skip_special_tokens=True) == ours
    ids = list(generate(model, encoded[0].tolist(), end=our_tokenizer.special.end, new_tokens=40, temperature=0, seed=0))
    assert out.tolist()[: len(ids)] == ids
    special = our_tokenizer.special
    assert (their_tokenizer.eos_token_id, their_tokenizer.bos_token_id, their_tokenizer.pad_token_id) == (
        special.end,
        special.begin,
        special.pad,
    )
    assert (theirs.config.eos_token_id, theirs.config.bos_token_id) == (special.end, special.begin)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_exported_comes_back(variant, tmp_path):
    model = built(small(variant))
    export(written(model, tmp_path / "run"), tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "back")
    state = weights.find(tmp_path / "back").state()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("variant", ["mod-paper", "hybrid-published"])
def test_padded_batches_give_each_row_its_own_text(variant, tmp_path):
    """Left padding in the exported code: a row's text does not depend on what it is batched with."""
    config = small(variant)
    export(written(built(config), tmp_path / "run"), tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    short, long = tokens(config, 1, 5), tokens(config, 1, 12, seed=1)
    batch = torch.cat((torch.cat((torch.full((1, 7), 2), short), 1), long))
    mask = torch.ones_like(batch)
    mask[0, :7] = 0
    together = theirs.generate(batch, attention_mask=mask, do_sample=False, max_new_tokens=12, min_new_tokens=12)
    alone = theirs.generate(short, do_sample=False, max_new_tokens=12, min_new_tokens=12)
    assert together[0, 12:].tolist() == alone[0, 5:].tolist()


def test_exported_depth_routing_can_be_trained_by_others(tmp_path):
    config = small("hybrid-paper")
    export(written(built(config), tmp_path / "run"), tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True).train()
    ids = tokens(config, 2, 16)
    theirs(ids, labels=ids).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in theirs.parameters() if p.grad is not None)


def _theirs(kind):
    shape = {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(intermediate_size=96, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **shape))
    return MixtralForCausalLM(MixtralConfig(intermediate_size=48, num_local_experts=4, **shape))


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
@pytest.mark.parametrize("shard", ["one file", "several"])
def test_a_model_saved_by_transformers_is_imported(kind, shard, tmp_path):
    theirs = _theirs(kind).eval()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="100KB" if shard == "several" else "1GB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file() == (shard == "several")
    _put_tokenizer(tmp_path / "hf")
    config = import_model(tmp_path / "hf", tmp_path / "ck")
    assert config.model.rope_theta == (500.0 if kind == "llama" else 1_000_000.0) or kind == "mixtral"
    saved = weights.find(tmp_path / "ck")
    ids = tokens(config.model, 2, 40)
    with torch.no_grad():
        assert (saved.model().logits(ids) - theirs(ids).logits).abs().max() <= 1e-4
    # And out again, in several files.
    export(tmp_path / "ck", tmp_path / "out", shard_bytes=100_000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


def _put_tokenizer(folder):
    """A tokenizer that begins each text by a token of its own and ends it by another than ours."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    names = ["<unk>", "<s>", "</s>"]
    library.train_from_iterator(
        ["some text to learn from " * 20],
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=library, eos_token="</s>", bos_token="<s>", unk_token="<unk>").save_pretrained(folder)


def test_an_imported_tokenizer_keeps_its_special_tokens(tmp_path):
    _theirs("llama").save_pretrained(tmp_path / "hf")
    _put_tokenizer(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "ck")
    tokenizer = weights.find(tmp_path / "ck").tokenizer()
    assert (tokenizer.special.end, tokenizer.special.begin, tokenizer.special.pad) == (2, 1, None)
    assert tokenizer.encode(["some text"])[0][0] == 1
    assert tokenizer.decode(tokenizer.encode(["some text"])[0]) == "some text"
    export(tmp_path / "ck", tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (theirs.eos_token_id, theirs.bos_token_id) == (2, 1)
    assert theirs("some text").input_ids == tokenizer.encode(["some text"])[0]


def test_plain_bytes_are_exported_as_a_tokenizer(tmp_path):
    model = built(small("dense", vocab=300))
    export(written(model, tmp_path / "run", "bytes"), tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = weights.find(tmp_path / "run").tokenizer()
    for text in ("plain", "ümläut €", "tab\tand\nline  two spaces", "\x00\x7f"):
        assert theirs(text).input_ids == ours.encode([text])[0]
        assert theirs.decode(ours.encode([text])[0]) == text


def test_narrow_weights_on_request(tmp_path):
    written(built(small("dense")), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "hf", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"attention_bias": True}, "attention_bias"),
        ({"head_dim": 128}, "head_dim"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_what_cannot_be_computed_exactly_is_refused(changed, named, tmp_path):
    export(written(built(small("dense")), tmp_path / "run"), tmp_path / "hf")
    raw = json.loads((tmp_path / "hf" / "config.json").read_text())
    raw.pop("rope_parameters")
    with pytest.raises(ConfigError, match=named):
        hf_config.from_config({**raw, **changed})


def test_refusals_say_what_is_missing(tmp_path):
    folder = written(built(small("dense")), tmp_path / "run")
    with pytest.raises(DataError, match="no folder"):
        export(tmp_path / "nowhere", tmp_path / "x")
    export(folder, tmp_path / "hf")
    with pytest.raises(DataError, match="not empty"):
        export(folder, tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="tokenizer"):
        import_model(tmp_path / "hf", tmp_path / "ck")
    assert not (tmp_path / "ck").exists()
    shutil.copy(folder / "tokenizer.json", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        import_model(tmp_path / "hf", tmp_path / "ck")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        export(folder, tmp_path / "y")
