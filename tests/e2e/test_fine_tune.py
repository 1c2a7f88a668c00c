"""The weekend fine-tune, end to end: a model saved by `transformers`, one's own text, a machine, and a better model back."""

import json

import pytest

pytestmark = pytest.mark.trains


def test_a_model_of_transformers_is_trained_further_and_comes_back(lumina, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.trainer.test_export import _put_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=2,
        bos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    _put_tokenizer(tmp_path / "hf")
    (tmp_path / "text").mkdir()
    for number in range(40):
        (tmp_path / "text" / f"{number}.txt").write_text("one two three four five six seven eight nine ten\n" * 30)
    words = ("--init-from", tmp_path / "hf", "--data", tmp_path / "text", "--provider", "local")
    planned = lumina.json("plan", *words)
    assert planned["rows"][0]["arch"] == "dense"
    settings = ("--set", "lr=3e-3", "--global-batch", 1024, "--tokens", 40_960, "--set", "precision=fp32")
    done = lumina("launch", *words, *settings, "--max-cost", 0.5, "--yes", "--follow", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])
    assert run["state"] == "succeeded"
    said = lumina.json("sample", run["run"], "--prompt", "one two three", "--max-new-tokens", 16)
    lumina.json("weights", run["run"], "--to", tmp_path / "back")
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "back"), AutoTokenizer.from_pretrained(tmp_path / "back")
    ids = tokenizer("one two three", return_tensors="pt").input_ids
    out = theirs.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
    assert tokenizer.decode(out, skip_special_tokens=True).strip() == said["text"].strip()
    # It has learned: the text's own loss is far below that of the model that went in.
    before = LlamaForCausalLM.from_pretrained(tmp_path / "hf")
    text = tokenizer("one two three four five six seven eight nine ten\n" * 3, return_tensors="pt").input_ids
    with torch.no_grad():
        assert theirs(text, labels=text).loss < 0.5 * before(text, labels=text).loss
