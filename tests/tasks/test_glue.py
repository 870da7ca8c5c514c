"""GLUE: files, tokens, batches, and metrics against independent references."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from every import thinned
from fits import events, fit
from scipy.stats import pearsonr, spearmanr

from tasks import GlueData
from tasks.glue import tokens
from tasks.glue.benchmark import TASKS
from tasks.glue.data import BucketLoader
from tasks.glue.files import load_examples, read_tsv
from tasks.glue.module import Scores
from tasks.glue.tokens import Tokenized, tokenize
from zoo.__main__ import main
from zoo.runs.checkpoints import rebuild

transformers = pytest.importorskip("transformers")


def matthews(predicted: np.ndarray, truth: np.ndarray) -> float:
    """(TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)); 0 where that is 0 / 0."""
    tp, tn = ((predicted == 1) & (truth == 1)).sum(), ((predicted == 0) & (truth == 0)).sum()
    fp, fn = ((predicted == 1) & (truth == 0)).sum(), ((predicted == 0) & (truth == 1)).sum()
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


def f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of label 1."""
    tp = ((predicted == 1) & (truth == 1)).sum()
    wrong = (predicted != truth).sum()
    return 2 * tp / (2 * tp + wrong) if tp + wrong else 0.0


def accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Over examples, whatever their label."""
    return (predicted == truth).mean()


def pearson(predicted: np.ndarray, truth: np.ndarray) -> float:
    return pearsonr(predicted, truth).statistic


def spearman(predicted: np.ndarray, truth: np.ndarray) -> float:
    return spearmanr(predicted, truth).statistic


OFFICIAL = {
    "cola": {"matthews": matthews},
    "sst2": {"accuracy": accuracy},
    "mrpc": {"accuracy": accuracy, "f1": f1},
    "stsb": {"pearson": pearson, "spearman": spearman},
    "qqp": {"accuracy": accuracy, "f1": f1},
    "mnli": {"accuracy": accuracy},
    "qnli": {"accuracy": accuracy},
    "rte": {"accuracy": accuracy},
    "wnli": {"accuracy": accuracy},
}


@pytest.mark.parametrize("task", TASKS)
def test_metrics_are_the_official_ones(task):
    """On 500 drawn predictions in uneven batches, with ties, twice; the loss is the mean over
    examples.
    """
    draw = torch.Generator().manual_seed(1)
    about = TASKS[task]
    labels = torch.randint(0, max(2, about.num_labels), (500,), generator=draw)
    labels[labels.eq(2) & (torch.rand(500, generator=draw) < 0.8)] = 0  # micro and macro differ
    outputs = torch.randn(500, about.num_labels, generator=draw)
    if about.labels:
        outputs[torch.arange(500), labels] += 0.8
        predicted = outputs.argmax(-1).numpy()
    else:
        labels = labels + (torch.rand(500, generator=draw) * 4).round() / 4
        outputs = (outputs[:, 0] + labels).mul(4).round() / 4
        predicted = outputs.numpy()
    scores = Scores(about)
    for _ in range(2):
        for chosen in torch.arange(500).split(77):
            scores.update(outputs[chosen], labels[chosen], labels[chosen].float().mean())
        values = scores.compute()
        expected = {
            name: metric(predicted, labels.numpy()) for name, metric in OFFICIAL[task].items()
        }
        assert values["loss"] == pytest.approx(labels.float().mean().item(), rel=1e-5)
        assert values["score"] == pytest.approx(sum(expected.values()) / len(expected), abs=1e-5)
        assert {k: v for k, v in values.items() if k not in ("score", "loss")} == pytest.approx(
            expected, abs=1e-5
        )
        assert all(abs(value) > 0.05 for value in expected.values())


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_constant_predictions_score_zero(task):
    scores = Scores(TASKS[task])
    """Also of classes of unequal size, for which torchmetrics says 0.2."""
    outputs = torch.ones(16, 2) * torch.tensor([0.0, 1.0]) if task == "cola" else torch.ones(16)
    scores.update(
        outputs,
        (torch.arange(16) > 4).long() if task == "cola" else torch.arange(16.0),
        torch.tensor(1.0),
    )
    assert scores.compute()["score"] == 0


@pytest.mark.parametrize("task", thinned(TASKS, 3))
def test_every_task_trains_and_validates(task, tune, place, glue, backbones, capsys):
    """The logged metrics are those of the checkpoint's own predictions, one unpadded example at a
    time.
    """
    options = [
        "--model.optimizer.lr=0.01",
        "--trainer.max_epochs=2",
        "--model.parameterization=Dense",
    ]
    folder = fit(*tune, f"--data.task={task}", *options, config="glue.yaml")
    output = capsys.readouterr()
    assert max(map(len, output.out.splitlines() + output.err.splitlines())) <= 80
    assert all(
        line.startswith(("Dense in", "trainable", "step")) for line in output.err.splitlines()
    )
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    model = rebuild(folder / "checkpoints" / "last.ckpt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbones("bert"))
    about = TASKS[task]
    for split in about.dev:
        examples = load_examples(task, about, split, str(glue))
        outputs = torch.cat(
            [
                model.net(
                    **tokenizer(*texts, return_tensors="pt", truncation=True, max_length=32)
                ).logits.detach()
                for texts in examples.texts
            ]
        )
        predicted = (outputs.argmax(-1) if about.labels else outputs[:, 0]).numpy()
        behind = split.removeprefix("dev") if split != about.dev[0] else ""
        for name, metric in OFFICIAL[task].items():
            with np.errstate(all="ignore"):
                expected = metric(predicted, np.array(examples.labels))
            assert metrics[f"val/{name}{behind}"] == pytest.approx(expected, abs=1e-3)
        assert metrics[f"val/score{behind}"] == pytest.approx(
            sum(metrics[f"val/{name}{behind}"] for name in OFFICIAL[task]) / len(OFFICIAL[task])
        )
        labels = torch.tensor(examples.labels)
        loss = (
            torch.nn.functional.cross_entropy(outputs, labels.long())
            if about.labels
            else (outputs[:, 0] - labels).square().mean()
        )
        assert metrics[f"val/loss{behind}"] == pytest.approx(loss.item(), rel=1e-4)
    expected = {
        f"val/{name}{behind}"
        for name in ("score", "loss", *OFFICIAL[task])
        for behind in (("", "_mismatched") if task == "mnli" else ("",))
    }
    assert set(metrics) == expected
    assert model.net.config.num_labels == {"mnli": 3, "stsb": 1}.get(task, 2)
    assert len(events(folder).Scalars("val/score")) == 2


def test_it_learns_and_validate_repeats_it(tune, place, tmp_path, capsys):
    """Whether a sentence has the word `not` in it, which half of them have."""
    from tiny import save_glue

    data = save_glue(tmp_path / "more", train=200, dev=50)
    options = [f"--data.data_dir={data}", "--model.optimizer.lr=0.003", "--trainer.max_epochs=6"]
    folder = fit(*tune, *options, config="glue_sst2 full")
    score = json.loads((folder / "summary.json").read_text())["score"]
    assert score > 0.9
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", str(folder)]) == 0
    assert str(score)[:6] in capsys.readouterr().out
    assert main(["predict", "--ckpt_path", str(folder)]) == 0


def test_facts_state_the_task_and_its_lengths(tune, place):
    folder = fit(*tune, "--data.max_length=8", "--data.task=qnli", config="glue.yaml")
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["glue_task"] == "qnli" and facts["max_length"] == 8 and facts["batch_size"] == 8
    assert (
        facts["examples"] == {"train": 40, "dev": 16} and facts["data"] == "QNLI, 40 train, 16 dev"
    )
    assert 0 < facts["cut"]["train"] <= 40 and 4 < facts["mean_tokens"]["train"] <= 8
    assert facts["backbone"].endswith("bert") and facts["monitor"] == "val/score"


# ---- Files ---------------------------------------------------------------------------------------

ODD = [
    '"A stray quote',
    'the end"',
    '""',
    "NA",
    "null",
    "None",
    " spaces ",
    "a\u2028b\u0085c\x0bd",
    "l'été",
    "#1",
]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_odd_sentences_survive(ending, bom, tmp_path):
    """Quotes, words that mean nothing elsewhere, line breaks that are none, Windows' endings and a
    byte-order mark.
    """
    path = tmp_path / "train.tsv"
    rows = ["sentence\tlabel", *(f"{text}\t{i % 2}" for i, text in enumerate(ODD))]
    path.write_bytes((bom + ending.join([*rows, ""])).encode())
    examples = read_tsv(path, TASKS["sst2"])
    assert [text for (text,) in examples.texts] == ODD
    assert examples.labels == [i % 2 for i in range(len(ODD))] and examples.skipped == 0


def test_stray_quotes_train(tune, place, glue):
    shutil.copytree(glue / "SST-2", "data/SST-2")
    rows = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(ODD))
    for split in ("train", "dev"):
        Path(f"data/SST-2/{split}.tsv").write_text("sentence\tlabel\n" + rows)
    folder = fit(*tune, "--data.data_dir=data", config="glue_sst2 lora_8")
    assert json.loads((folder / "summary.json").read_text())["examples"] == {
        "train": len(ODD),
        "dev": len(ODD),
    }


def test_labels_go_by_name_and_number(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text(
        "sentence1\tsentence2\tgold_label\na\tb\tcontradiction\nc\td\t1\ne\tf\tentailment\n"
    )
    assert read_tsv(path, TASKS["mnli"]).labels == [2, 1, 0]
    path.write_text(
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n"
    )
    assert read_tsv(path, TASKS["rte"]).labels == [1, 0] and read_tsv(
        path, TASKS["wnli"]
    ).labels == [0, 1]
    path.write_text("gj04\t1\t\tHe left .\nclc\t0\t*\tHim left .\n")
    assert read_tsv(path, TASKS["cola"]).texts == [("He left .",), ("Him left .",)]


def test_broken_lines_of_qqp_are_left_out_and_counted(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb\t1\n3\tbroken\n4\t5\t6\tc\td\t0\n"
    )
    examples = read_tsv(path, TASKS["qqp"])
    assert (examples.texts, examples.labels, examples.skipped) == (
        [("a", "b"), ("c", "d")],
        [1, 0],
        1,
    )


def test_where_files_are_looked_for(glue, tmp_path, monkeypatch):
    about = TASKS["rte"]
    expected = read_tsv(glue / "RTE" / "dev.tsv", about)
    shutil.copytree(glue, tmp_path / "cache" / "glue")
    for folder in (glue, glue / "RTE", tmp_path / "cache"):
        assert load_examples("rte", about, "dev", str(folder)) == expected
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "cache"))
    assert load_examples("rte", about, "dev", None) == expected


@pytest.mark.parametrize("task", TASKS)
def test_the_hubs_columns(task, monkeypatch):
    """The columns of nyu-mll/glue as its card has them, asked for offline first."""
    datasets = pytest.importorskip("datasets")
    columns = {
        "mrpc": ("sentence1", "sentence2"),
        "qqp": ("question1", "question2"),
        "qnli": ("question", "sentence"),
        "mnli": ("premise", "hypothesis"),
        "sst2": ("sentence",),
        "cola": ("sentence",),
    }
    columns = columns.get(task, ("sentence1", "sentence2"))
    table = datasets.Dataset.from_dict(
        {name: [f"{name} {i}" for i in range(3)] for name in columns}
        | {"label": [0, 1, 0], "idx": [0, 1, 2]}
    )
    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split, datasets.config.HF_HUB_OFFLINE))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("ZOO_DATA", raising=False)
    examples = load_examples(task, TASKS[task], TASKS[task].dev[-1], None)
    assert examples.texts[1] == tuple(f"{name} 1" for name in columns) and examples.labels == [
        0,
        1,
        0,
    ]
    split = "validation_mismatched" if task == "mnli" else "validation"
    assert asked == [("nyu-mll/glue", task, split, True)]


# ---- Tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2"])
def test_batches_are_padded_as_transformers_does(kind, backbones, glue, place):
    data = GlueData("rte", str(backbones(kind)), str(glue), max_length=12)
    data.setup("fit")
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbones(kind))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    examples = load_examples("rte", TASKS["rte"], "train", str(glue))
    chosen = [7, 3, 21, 0]
    sides = [[examples.texts[i][side] for i in chosen] for side in (0, 1)]
    settings = {"padding": True, "truncation": True, "max_length": 12, "padding_side": "right"}
    expected = tokenizer(*sides, **settings, return_tensors="pt")
    batch = data._splits["train"].batch(chosen)
    assert batch.pop("labels").tolist() == [examples.labels[i] for i in chosen]
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_tokens_are_read_from_the_cache(backbones, place, monkeypatch):
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbones("bert"))
    calls = []
    real = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    cache = place.parent / "cache" / "zoo" / "tokenized"
    texts = [("a good film", "dull"), ("fine", "not very bad")]

    def again(texts=texts, max_length=16, tokenizer=tokenizer):
        """How often the tokenizer is called, and how many files there are."""
        calls.clear()
        stored = tokenize(texts, tokenizer, max_length)
        assert (
            stored["lengths"].sum() == len(stored["input_ids"])
            and stored["input_ids"].dtype == torch.int32
        )
        return len(calls), len(list(cache.iterdir()))

    assert again() == (1, 1)
    assert again() == (0, 1)
    assert again(max_length=8) == (1, 2)
    assert again(texts=[("a good film",), ("fine",)]) == (1, 3)
    assert again(texts=[("a good", "film dull"), ("fine", "not very bad")]) == (1, 4)
    other = transformers.AutoTokenizer.from_pretrained(backbones("distilbert"))  # no token types
    assert again(tokenizer=other) == (1, 5)
    assert again(tokenizer=transformers.AutoTokenizer.from_pretrained(backbones("roberta"))) == (
        1,
        6,
    )
    assert again() == (0, 6)
    for leftover in (
        b"",
        b"garbage",
        b"\x80\x63garbage",
        (path := max(cache.iterdir())).read_bytes()[:300],
    ):
        for path in cache.iterdir():
            path.write_bytes(leftover)
        assert again() == (1, 6)
        assert again() == (0, 6)
    assert not [path for path in cache.iterdir() if path.suffix != ".pt"]


def test_a_second_run_reads_the_cache(tune, place, monkeypatch):
    fit(*tune, config="glue_rte lora_8")
    monkeypatch.setattr(tokens, "_keep", lambda *_: pytest.fail("tokenized again"))
    fit(*tune, config="glue_rte dct_8")


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_train(
    tune, place, tmp_path, monkeypatch
):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    fit(*tune, config="glue_rte lora_8")


# ---- Batches -------------------------------------------------------------------------------------


def ragged(count: int) -> Tokenized:
    """Examples of 1 to 30 tokens; the first token of each is its number."""
    lengths = torch.randint(1, 31, (count,), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor(
        [value for i, n in enumerate(lengths.tolist()) for value in (i, *[0] * (n - 1))]
    )
    return Tokenized({"input_ids": ids.int()}, lengths, torch.arange(count), 0)


def epoch(loader: BucketLoader, number: int) -> list[list[int]]:
    """The examples of each batch, but those of weight 0."""
    loader.load_state_dict({"position": number * loader.steps})
    batches = list(loader)
    for batch in batches:
        assert torch.equal(batch["input_ids"][:, 0], batch["labels"])
    return [batch["labels"].tolist() if batch.get("weight", 1) else [] for batch in batches]


@pytest.mark.parametrize(("count", "size"), [(100, 8), (64, 8), (5, 8), (1, 1), (1000, 7)])
def test_each_example_once_an_epoch(count, size):
    loader = BucketLoader(ragged(count), size, seed=3)
    assert len(loader) == math.ceil(count / size)
    for number in (0, 1):
        batches = epoch(loader, number)
        assert Counter(i for batch in batches for i in batch) == Counter(range(count))
        assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1) and len(batches) == len(
            loader
        )


def test_the_order_is_a_function_of_seed_and_epoch():
    data = ragged(100)
    first, again = epoch(BucketLoader(data, 8, 3), 0), epoch(BucketLoader(data, 8, 3), 0)
    assert first == again
    assert first != epoch(BucketLoader(data, 8, 3), 1) and first != epoch(
        BucketLoader(data, 8, 4), 0
    )
    loader = BucketLoader(data, 8, 3)
    assert epoch(loader, 1) == epoch(BucketLoader(data, 8, 3), 1)  # whatever came before


def test_batches_are_of_similar_length():
    """Sorted buckets pad a fraction of what random batches pad."""
    data = ragged(2000)
    shuffled = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).split(16)
    waste = [
        sum(data.lengths[b].max() * len(b) - data.lengths[b].sum() for b in batches)
        for batches in (epoch(BucketLoader(data, 16, 0), 0), shuffled)
    ]
    assert waste[0] < waste[1] / 5


@pytest.mark.parametrize(("count", "world"), [(96, 2), (100, 2), (101, 2), (50, 4)])
def test_ranks_share_the_global_batch(count, world):
    """Two ranks with half the batch take the single process's batches between them, and as many
    each.
    """
    data = ragged(count)
    whole = epoch(BucketLoader(data, 16, 5), 0)
    parts = [epoch(BucketLoader(data, 16 // world, 5, rank, world), 0) for rank in range(world)]
    together = [sorted(i for part in step for i in part) for step in zip(*parts, strict=True)]
    assert together == [sorted(batch) for batch in whole]
    assert Counter(i for step in together for i in step) == Counter(range(count))


def test_validation_takes_each_example_once(backbones, glue, place):
    """On any number of ranks."""
    from types import SimpleNamespace

    for world in (1, 2, 3):
        seen = []
        for rank in range(world):
            data = GlueData(
                "mnli", str(backbones("bert")), str(glue), eval_batch_size=5, max_length=32
            )
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
            data.setup("validate")
            loaders = data.val_dataloader()
            assert len(loaders) == 2
            seen += [
                tuple(ids[mask.bool()].tolist())
                for batch in loaders[0]
                for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            ]
        whole = data._splits["dev_matched"]
        everything = [tuple(whole.batch([i])["input_ids"][0].tolist()) for i in range(len(whole))]
        assert len(seen) == 16 and Counter(seen) == Counter(everything)


def test_fewer_training_examples(backbones, glue, place):
    data = GlueData("rte", str(backbones("bert")), str(glue), max_length=32, train_examples=10)
    data.setup("fit")
    assert data.facts()["examples"] == {"train": 10, "dev": 16}
    texts = data.examples("train").texts
    assert (
        texts == data.examples("train").texts
        and len(set(texts) - set(data.examples("dev").texts)) > 5
    )
