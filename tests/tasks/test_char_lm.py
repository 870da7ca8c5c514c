"""The character task: the paper's model, corpora, and windows that score every character once."""

import functools
import hashlib
import math
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED

from tasks import CharData, CharLM
from tasks.char_lm.model import GPT, Attention, causal_attention
from tasks.text import corpus
from tasks.text.module import LanguageScore
from tasks.text.windows import IGNORE, WindowLoader, scored_once
from zoo.errors import UserError
from zoo.layers.convert import convert, counts
from zoo.parameterizations import DCT, Dense
from zoo.testing import agree


def test_the_papers_model_has_826433_parameters():
    net = GPT(65)
    assert sum(p.numel() for p in net.parameters()) == 826_433
    assert counts(convert(net, Dense, ["blocks.*"]))["replaced"] == 786_432


def test_half_of_the_dct_leaves_433217_trainable():
    total = counts(convert(GPT(65), functools.partial(DCT, ratio=0.5), ["blocks.*"]))
    assert total["trainable"] == 433_217
    assert total["coefficients"] == 393_216


def test_attention_is_torchs():
    q, k, v = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64)
    agree(causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True), 1e-12)


def test_attention_sees_no_future():
    attention = Attention(16, 2, 0.0)
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 4:] += 1
    agree(attention(changed)[:, :4], attention(x)[:, :4].detach(), 1e-6)


def test_heads_must_divide_width():
    with pytest.raises(ValueError, match="heads must divide width 16, got 3"):
        GPT(5, width=16, heads=3)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_character_is_scored_once(world):
    """The targets are the split, in order, each once, and each input is the character before,
    whoever scores it.
    """
    context, ids, characters = torch.arange(100, 107), torch.arange(30), torch.arange(30) % 3
    parts = [scored_once(context, ids, characters, 8, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1  # no rank waits for one that has nothing to do
    windows = [window for turn in zip(*parts, strict=True) for window in turn]
    inputs, targets, counts = (torch.cat(side) for side in zip(*windows, strict=True))
    scored = targets != IGNORE
    assert targets[scored].tolist() == list(range(30))
    assert inputs[scored].tolist() == [106, *range(29)]
    assert torch.equal(counts[scored], characters) and not counts[~scored].any()


def test_windows_are_a_function_of_the_step():
    ids = torch.arange(1000)
    first, second = (WindowLoader(ids, 5, 4, 16, seed=3) for _ in range(2))
    batches = list(first)
    assert len(batches) == len(first) == 5
    inputs, targets = batches[2]
    assert inputs.shape == (4, 16) and torch.equal(targets, inputs + 1)
    second.load_state_dict({"position": 2})
    assert torch.equal(next(iter(second))[0], inputs)
    assert not torch.equal(WindowLoader(ids, 5, 4, 16, seed=4).batch(2)[0], inputs)


def test_every_epoch_has_windows_of_its_own():
    loader = WindowLoader(torch.arange(1000), 3, 4, 16, seed=0)
    first, second = list(loader), list(loader)
    assert len(first) == len(second) == 3
    assert not torch.equal(first[0][0], second[0][0])
    assert torch.equal(second[0][0], loader.batch(3)[0])


def test_ranks_share_the_global_batch():
    """Windows of two ranks together are those of one process with twice the batch."""
    ids = torch.arange(1000)
    whole = WindowLoader(ids, 5, 4, 16, seed=0).batch(1)[0]
    parts = [WindowLoader(ids, 5, 2, 16, seed=0, rank=r, world=2).batch(1)[0] for r in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_windows_reach_the_first_and_the_last_character():
    ids = torch.arange(12)
    seen = torch.cat([WindowLoader(ids, 50, 4, 4, seed=0).batch(i)[1].flatten() for i in range(50)])
    assert seen.min() == 1 and seen.max() == 11


def test_ranks_share_validation(text):
    """Two ranks' batches together are the validation text, once."""
    data, seen = CharData(corpus=str(text), batch_size=4, block_size=7), []
    for rank in (0, 1):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        seen.append(torch.cat([targets for _, targets, _ in data.val_dataloader()]))
    targets = torch.stack(seen, 1).flatten()  # they take turns
    assert torch.equal(targets[targets != IGNORE], data.encoded[1][0].long())


def test_validation_loss_is_the_mean_over_characters(text):
    """Batched, padded scoring equals the mean of one cross-entropy a character; the usual units
    follow from it.
    """
    # 81 windows in two batches, the last one ragged.
    data = CharData(corpus=str(text), batch_size=64, block_size=5)
    model = CharLM(data.vocabulary, block_size=5, width=16, heads=2, layers=1).eval()
    torch.nn.init.normal_(model.net.head.weight)  # losses that differ between windows
    (before, _), (ids, ones) = data.encoded
    with torch.no_grad():
        for i, batch in enumerate(data.val_dataloader()):
            model.validation_step(batch, i)
        expected = torch.cat(
            [
                F.cross_entropy(model(x[None])[0], y, ignore_index=IGNORE, reduction="none")[
                    y != IGNORE
                ]
                for x, y, _ in scored_once(before, ids, ones, 5)
            ]
        )
    assert len(expected) == len(ids) == 402
    score, mean = model.score.compute(), expected.mean()
    agree(score["loss"], mean, 1e-6)
    agree(score["perplexity"], mean.exp(), 1e-5)
    agree(score["bits_per_char"], mean / math.log(2), 1e-6)


def test_a_rank_with_nothing_to_score_adds_nothing():
    score = LanguageScore()
    targets = torch.tensor([[0, 1, IGNORE]])
    score.update(torch.zeros(1, 3, 4), targets, torch.tensor([[1, 3, 0]]))
    score.update(
        torch.randn(1, 3, 4), torch.full((1, 3), IGNORE), torch.zeros(1, 3, dtype=torch.long)
    )
    assert {k: v.item() for k, v in score.compute().items()} == pytest.approx(
        {"loss": math.log(4), "perplexity": 4, "bits_per_char": 2 * 2 / 4}
    )


def test_no_training_window_reaches_into_validation(text):
    data = CharData(corpus=str(text), batch_size=64, block_size=16)
    data.trainer = SimpleNamespace(
        max_steps=50, accumulate_grad_batches=1, global_rank=0, world_size=1
    )
    loader = data.train_dataloader()
    whole, _ = data.encode(data.corpus.text)
    assert torch.equal(loader.ids, whole[:3618]) and torch.equal(data.encoded[1][0], whole[3618:])
    loader.ids = torch.arange(len(loader.ids))
    assert max(loader.batch(i)[1].max() for i in range(50)) == 3617


def test_encode_and_decode():
    model = CharLM("abc", block_size=4, width=8, heads=1, layers=1)
    assert model.decode(model.encode("cab")[0]) == "cab"
    with pytest.raises(UserError, match="never seen 'xz'"):
        model.encode("axbz")


def test_generate_continues_greedily():
    model = CharLM("abcde", block_size=4, width=8, heads=2, layers=1).eval()
    torch.nn.init.normal_(model.net.token.weight)
    torch.nn.init.normal_(model.net.head.weight)
    ids = model.sample(torch.tensor([[1, 2]]), 6, temperature=0)
    assert ids.shape == (1, 8) and ids[0, :2].tolist() == [1, 2]
    for t in range(2, 8):  # from the last block_size characters, position by position
        assert ids[0, t] == model(ids[:, max(0, t - 4) : t])[0, -1].argmax()
    assert model.generate("bc", 6, temperature=0) == model.decode(ids[0])


def test_pydoc_is_here():
    text = corpus.load_corpus("pydoc")
    assert text.name == "pydoc" and len(text.text) > 300_000
    assert text.sha256 == hashlib.sha256(text.text.encode()).hexdigest()


def test_tiny_shakespeare_is_looked_for_in_order(place, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_SHA256", hashlib.sha256(b"To be").hexdigest())
    folders = {name: tmp_path / name for name in ("given", "environment", "cache/zoo")}
    for folder in folders.values():
        (folder / "tinyshakespeare").mkdir(parents=True)
    monkeypatch.setenv("ZOO_DATA", str(folders["environment"]))
    for folder in reversed(folders.values()):
        (folder / "tinyshakespeare" / "input.txt").write_text("To be")
        assert corpus.load_corpus("tinyshakespeare", str(folders["given"])).text == "To be"
    (folders["given"] / "tinyshakespeare" / "input.txt").write_text("not to be")
    with pytest.raises(UserError, match="given/tinyshakespeare/input.txt. is not Tiny Shakespeare"):
        corpus.load_corpus("tinyshakespeare", str(folders["given"]))


def test_a_download_is_checked_and_kept(place, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "TINYSHAKESPEARE_SHA256", hashlib.sha256(b"To be").hexdigest())
    monkeypatch.setattr(corpus, "download", lambda url: b"To be")
    assert corpus.load_corpus("tinyshakespeare").text == "To be"
    assert (tmp_path / "cache" / "zoo" / "tinyshakespeare" / "input.txt").read_text() == "To be"
    monkeypatch.setattr(corpus, "download", lambda url: pytest.fail("it is in the cache"))
    assert corpus.load_corpus("tinyshakespeare").text == "To be"


def test_a_tampered_download_is_refused(place, monkeypatch):
    monkeypatch.setattr(corpus, "download", lambda url: b"something else")
    with pytest.raises(UserError, match="is not Tiny Shakespeare"):
        corpus.load_corpus("tinyshakespeare", fallback=None)


def test_a_download_that_does_not_start_is_given_up(monkeypatch):
    given_up = threading.Event()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: given_up.wait())
    with pytest.raises(corpus.Unavailable, match="did not start within 0 s"):
        corpus.download("http://example.invalid", start_seconds=0.1)
    given_up.set()


def test_the_fallback_says_so_and_goes_by_its_own_name(place):
    data = CharData()
    assert data.name == "pydoc" and data.settings() == {"corpus": "pydoc"}
    with pytest.warns(UserWarning, match="Using 'pydoc' instead"):
        data.setup("fit")
    with pytest.raises(UserError, match="--data.data_dir"):
        _ = CharData(fallback=None).corpus


@pytest.mark.skipif(not (SHARED / "tinyshakespeare" / "input.txt").exists(), reason="not here")
def test_tiny_shakespeare_has_65_characters():
    data = CharData(data_dir=str(SHARED))
    (train, _), (val, _) = data.encoded
    assert len(data.vocabulary) == 65 and len(train) + len(val) == 1_115_394 and len(val) == 111_540
