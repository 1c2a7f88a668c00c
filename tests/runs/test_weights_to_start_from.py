"""`--init-from`: what a folder of weights means for a run, and which of its files travel."""

from __future__ import annotations

import json

import pytest

from lumina_cloud.api.requests import Options, workload_request
from lumina_cloud.core.errors import DataError, UsageError
from lumina_cloud.runs import weights_to_start_from, workloads

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
MIXTRAL = {**LLAMA, "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False}


def folder(path, config=LLAMA, names=("model.safetensors", "tokenizer.json", "tokenizer_config.json")):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    for name in names:
        (path / name).write_bytes(b"{}")
    return path


def data(path):
    path.write_text("some text to learn from\n" * 2000)
    return path


def test_shape_and_settings_follow_from_the_weights(tmp_path):
    request = workload_request(None, Options(init_from=str(folder(tmp_path / "hf")), data=str(data(tmp_path / "d.txt"))))
    (config,) = workloads.build(request).configs
    model = config.model
    assert (model.arch, model.vocab, model.d_model, model.n_layers, model.n_kv_heads) == ("dense", 1000, 64, 3, 2)
    assert (model.rope_theta, model.norm_eps, model.tie_embeddings) == (500_000.0, 1e-6, True)
    assert config.init_from == str(tmp_path / "hf")
    # No longer than the model was made for; a finished model's learning rate; two rounds over the new text.
    assert config.training.seq_len == 512
    assert config.training.lr == 2e-5
    assert config.training.epochs == pytest.approx(2)


def test_a_mixtral_is_a_mixture_of_experts(tmp_path):
    request = workload_request(None, Options(init_from=str(folder(tmp_path / "hf", MIXTRAL)), tokens="1M"))
    (config,) = workloads.build(request).configs
    assert request.archs == ("moe",)
    assert (config.model.n_experts, config.model.top_k, config.model.d_expert) == (4, 2, 128)
    assert config.training.tokens == 1_000_000


def test_another_architecture_or_preset_is_refused(tmp_path):
    hf = str(folder(tmp_path / "hf"))
    with pytest.raises(UsageError, match="dense"):
        workload_request(None, Options(arch="moe", init_from=hf))
    with pytest.raises(UsageError, match="no b1 dense"):
        workloads.build(workload_request("b1", Options(init_from=hf)))


def test_a_checkpoint_of_a_preset_goes_on_as_that_preset(tmp_path):
    from trainer.config import preset

    (tmp_path / "ck").mkdir()
    (tmp_path / "ck" / "run.json").write_text(preset("debug", "mod").to_json())
    (tmp_path / "ck" / "model.safetensors").write_bytes(b"x")
    (config,) = workloads.build(workload_request("debug", Options(init_from=str(tmp_path / "ck")))).configs
    assert (config.preset, config.model.arch, config.init_from) == ("debug", "mod", str(tmp_path / "ck"))


def test_only_what_is_needed_travels(tmp_path):
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json")
    hf = folder(tmp_path / "hf", names=(*names, "pytorch_model.bin", "README.md", "modeling_x.py"))
    assert {p.name for p in weights_to_start_from.files(hf)} == {"config.json", *names}


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_missing_is_named(tmp_path, missing):
    hf = folder(tmp_path / "hf")
    (hf / missing).unlink()
    with pytest.raises(DataError, match="safetensors" if missing == "model.safetensors" else missing):
        weights_to_start_from.files(hf)


def test_a_mistyped_folder_gets_a_suggestion(tmp_path):
    folder(tmp_path / "llama")
    with pytest.raises(DataError) as error:
        weights_to_start_from.absolute(str(tmp_path / "lama"))
    assert "llama" in error.value.hint


def test_without_a_model_or_weights_the_question_is_asked_back():
    with pytest.raises(UsageError, match="which model"):
        workload_request(None, Options())


def test_the_recipe_is_the_users(tmp_path):
    configs = [
        workloads.build(workload_request("b1", Options(arch="mod", recipe=recipe))).configs[0].model for recipe in (None, "published")
    ]
    assert [(m.mod_every, m.mod_capacity) for m in configs] == [(2, 0.125), (1, 0.6)]
    with pytest.raises(UsageError, match="recipe"):
        workloads.build(workload_request("b1", Options(arch="mod", recipe="papper")))


def test_the_weights_are_in_the_bundle(tmp_path):
    from lumina_cloud.remote import bundle

    hf, staging = folder(tmp_path / "hf"), tmp_path / "staging"
    staging.mkdir()
    job = bundle.Job(seconds_cap=1, grace_seconds=1, linger_seconds=1, seconds_off=1)
    (tmp_path / "trainer").mkdir()
    built = bundle.build(
        staging, config_json="{}", trainer=tmp_path / "trainer", data=(), weights=weights_to_start_from.files(hf), previous=None, job=job
    )
    assert {f.target for f in built.files} >= {"init/config.json", "init/model.safetensors", "init/tokenizer.json"}
    assert json.loads((staging / "job.json").read_text())["init_from"] == "init"
