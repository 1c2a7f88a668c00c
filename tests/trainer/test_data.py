"""Text becomes shards that are whole, shuffled, split the same for every tokenizer; what is damaged is named."""

import json

import numpy as np
import pytest

from tests.trainer.conftest import text, trainer
from trainer import shards
from trainer import tokenizer as tokenizers
from trainer.batches import Loader, Order, Windows, positions
from trainer.config import LayoutConfig
from trainer.errors import DataError
from trainer.sources import documents


def recipe(source, **changes):
    return shards.Recipe(**{"source": str(source), "tokenizer": "bytes", "vocab": 300, "validation_tokens": 2000, "seq_len": 32, **changes})


def prepared(tmp_path, source, name="shards", **changes):
    folder = tmp_path / name
    return folder, shards.prepare(recipe(source, **changes), folder, folder / "tokenizer.json")


def texts_of(folder, split, kind="bytes"):
    index, tokenizer = shards.read(folder), tokenizers.open_in(folder, kind)
    ids = np.concatenate([np.fromfile(folder / shard.file, index.dtype) for shard in getattr(index, split)]).tolist()
    out, start = [], 0
    for place, token in enumerate(ids):
        if token == tokenizer.special.end:
            out.append(tokenizer.decode(ids[start:place]))
            start = place + 1
    return out


def test_every_document_is_in_one_split_whole_and_once(tmp_path, corpus):
    folder, index = prepared(tmp_path, corpus)
    train, held_out = texts_of(folder, "train"), texts_of(folder, "validation")
    assert sorted(train + held_out) == sorted(documents(str(corpus)))
    assert len(held_out) > 3 and index.documents == len(train) + len(held_out)
    assert index.validation_bytes == sum(len(t.encode()) for t in held_out)
    assert index.train_bytes == sum(len(t.encode()) for t in train)


def test_the_seed_decides_the_order_and_nothing_else(tmp_path, corpus):
    folders = [prepared(tmp_path, corpus, f"s{i}", seed=seed)[0] for i, seed in enumerate((1, 1, 2))]
    first, same, other = (texts_of(folder, "train") for folder in folders)
    assert first == same != other and sorted(first) == sorted(other)
    assert first != [t for t in documents(str(corpus)) if t in set(first)], "the documents are in the source's own order"
    assert texts_of(folders[0], "validation") == texts_of(folders[2], "validation")


def test_the_validation_split_is_the_same_text_for_every_tokenizer(tmp_path, corpus):
    by_bytes, _ = prepared(tmp_path, corpus, "bytes")
    by_bpe, index = prepared(tmp_path, corpus, "bpe", tokenizer="bpe", vocab=400)
    assert texts_of(by_bytes, "validation") == texts_of(by_bpe, "validation", "bpe")
    assert index.count("train") < shards.read(by_bytes).count("train")


def test_a_hugging_face_tokenizer_folder_is_taken(tmp_path, corpus):
    from transformers import PreTrainedTokenizerFast

    tokenizers.train_bpe(text(200, seed=3), 350, tmp_path / "own.json")
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "own.json"), eos_token="<|end|>").save_pretrained(tmp_path / "hf")
    folder, _ = prepared(tmp_path, corpus, tokenizer=str(tmp_path / "hf"), vocab=350)
    assert sorted(texts_of(folder, "train", "hf") + texts_of(folder, "validation", "hf")) == sorted(documents(str(corpus)))
    with pytest.raises(DataError, match="the tokenizer has 350 tokens, and the model's vocabulary is 300"):
        prepared(tmp_path, corpus, "small", tokenizer=str(tmp_path / "hf"), vocab=300)
    with pytest.raises(DataError, match=r"has no tokenizer.json: save it as a fast tokenizer first"):
        prepared(tmp_path, corpus, "none", tokenizer=str(tmp_path))


def test_kinds_of_source(tmp_path):
    import pyarrow
    import pyarrow.parquet

    wanted = text(30, seed=1)
    folder = tmp_path / "sources"
    (folder / "code").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": wanted[:10]}), folder / "a.parquet")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": t, "n": 1}) + "\n" for t in wanted[10:20]))
    for number, t in enumerate(wanted[20:]):
        (folder / "code" / f"f{number}.py").write_text(t)
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    (folder / ".hidden.txt").write_text("hidden")
    assert sorted(t for t in documents(str(folder)) if t != "hidden") == sorted(wanted)
    (folder / "broken.jsonl").write_text('{"text": "x"}\n{"no": 1}\n')
    with pytest.raises(DataError, match=r"broken.jsonl line 2 is no JSON object with a field 'text'"):
        list(documents(str(folder)))


def test_a_single_short_text_is_split_too(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("".join(text(60)))
    _, index = prepared(tmp_path, path)
    assert 32 < index.count("validation") < index.count("train")


def test_too_little_text_is_said(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("a few words")
    with pytest.raises(DataError, match="one sequence needs 33: give more text, or a smaller seq_len"):
        prepared(tmp_path, path)
    path.write_text("  \n")
    with pytest.raises(DataError, match="holds no text"):
        prepared(tmp_path, path)


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_shard_is_named(tmp_path, corpus, harm):
    folder, index = prepared(tmp_path, corpus)
    path = folder / "train-00000.bin"
    whole = path.read_bytes()
    said = {"cut": "train-00000.bin has ", "flipped": "train-00000.bin is not what was written", "gone": "train-00000.bin is missing"}[harm]
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-100] if harm == "cut" else whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    (problem,) = shards.damage(folder, index)
    assert problem.startswith(said)
    done = trainer("data", "check", folder, check=2)
    assert said in done.stderr


def test_the_verbs(tmp_path, corpus):
    done = trainer("data", "prepare", corpus, "--to", tmp_path / "out", "--vocab", 400, "--seq-len", 32, "--tokens", "10k", "--json")
    figures = json.loads(done.stdout)
    assert figures["tokens"] >= 10_000 and figures["shards"] == 2
    assert sum(p.stat().st_size for p in (tmp_path / "out").glob("*.bin")) == figures["upload_bytes"]
    checked = json.loads(trainer("data", "check", tmp_path / "out", "--tokens", "30k", "--json").stdout)
    assert checked["tokens"] == figures["tokens"] and checked["exact"] and checked["problems"] == []
    assert checked["epochs"] == pytest.approx(30_000 / figures["tokens"])
    found = json.loads(trainer("data", "check", corpus, "--tokenizer", "bytes", "--vocab", 300, "--json").stdout)
    assert found["documents"] == 400 and found["tokens"] == found["bytes"] + 400 and found["upload_bytes"] == corpus.stat().st_size
    assert "no data at" in trainer("data", "check", tmp_path / "nothing", check=2).stderr


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_read_disjoint_parts_that_together_are_everything(tmp_path, corpus, world):
    folder, index = prepared(tmp_path, corpus)
    windows = Windows(folder, index, "train", 32)
    layout = LayoutConfig(n_gpus=world, micro_batch=2, grad_accum=4 // world)
    steps = range(len(windows) // 8)
    read = [[r for batch in _all(Loader(windows, 7, layout, rank, steps=steps), steps, layout) for r in batch] for rank in range(world)]
    together = [row for rank in read for row in rank]
    assert len(set(together)) == len(together) == len(steps) * 8, "a sequence was read twice within an epoch"
    alone = LayoutConfig(n_gpus=1, micro_batch=1, grad_accum=8)
    assert sorted(together) == sorted(r for batch in _all(Loader(windows, 7, alone, 0, steps=steps), steps, alone) for r in batch)


def _all(loader, steps, layout):
    for _ in range(len(steps) * layout.grad_accum):
        yield [tuple(row) for row in loader.next()[0].tolist()]
    loader.close()


def test_a_loader_that_starts_later_goes_on_in_the_same_place_through_epochs(tmp_path, corpus):
    folder, index = prepared(tmp_path, corpus)
    windows, layout = Windows(folder, index, "train", 32), LayoutConfig(micro_batch=16, grad_accum=1)
    steps = range(2 * len(windows) // 16)
    whole = list(_all(Loader(windows, 7, layout, 0, steps=steps), steps, layout))
    late = steps[len(steps) // 2 :]
    assert whole[late.start :] == list(_all(Loader(windows, 7, layout, 0, steps=late), late, layout))
    order = Order(len(windows), 7)
    first, second = ([order[p] for p in range(e * len(windows), (e + 1) * len(windows))] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(len(windows))) and first != second
    assert list(positions(3, 1, world=2, micro_batch=2, grad_accum=1)) == [[14, 15]]


def test_what_the_loader_cannot_read_is_raised_where_it_is_asked_for(tmp_path, corpus):
    folder, index = prepared(tmp_path, corpus)
    windows = Windows(folder, index, "train", 32)
    windows._maps.clear()
    loader = Loader(windows, 7, LayoutConfig(), 0, steps=range(2))
    with pytest.raises(IndexError):
        loader.next()
    loader.close()
