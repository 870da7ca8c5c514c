"""GLUE's files and batches: nothing is lost, reordered or believed that cannot be right."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SHARED
from fits import fit
from test_glue import ragged

from tasks import GlueClassifier, GlueData
from tasks.glue.benchmark import TASKS
from tasks.glue.data import BucketLoader
from tasks.glue.files import Examples, from_hub, read_tsv
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.parameterizations import DCT

transformers = pytest.importorskip("transformers")

RTE = "index\tsentence1\tsentence2\tlabel\n"
STSB = "index\tsentence1\tsentence2\tscore\n"
WRONG = [
    ("too many", "rte", RTE + "0\ta\tb\tc\tentailment\n", ["line 2", "5 fields instead of 4"]),
    (
        "too many behind",
        "rte",
        RTE + "0\ta\tb\tentailment\textra\n",
        ["line 2", "5 fields instead of 4"],
    ),
    (
        "too many, no header",
        "cola",
        "gj04\t1\t\tHe left.\nx\t0\t*\tHim\tleft.\n",
        ["line 2", "5 fields instead of 4"],
    ),
    (
        "too few",
        "mrpc",
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\ta\n",
        ["line 2", "4 fields instead"],
    ),
    ("too few behind", "sst2", "sentence\tlabel\tid\na\t1\n", ["line 2", "2 fields instead of 3"]),
    (
        "column twice",
        "rte",
        "index\tsentence1\tsentence1\tlabel\n0\ta\tb\t1\n",
        ["'sentence1'", "2 times"],
    ),
    (
        "label twice",
        "rte",
        "label\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n",
        ["'label'", "2 times"],
    ),
    ("no header", "rte", "0\ta\tb\tentailment\n", ["no column 'sentence1'"]),
    ("empty first", "rte", RTE + "0\t\tb\t1\n", ["line 2", "'sentence1' is empty"]),
    ("empty second", "rte", RTE + "0\ta\tb\t0\n1\ta\t  \t1\n", ["line 3", "'sentence2' is empty"]),
    ("empty row", "sst2", "sentence\tlabel\na\t1\n\t\n", ["line 3", "'sentence' is empty"]),
    ("empty, no header", "cola", "gj04\t1\t\t\n", ["line 1", "'sentence' is empty"]),
    ("score above", "stsb", STSB + "0\ta\tb\t7.5\n", ["line 2", "from 0 to 5", "'7.5'"]),
    ("score below", "stsb", STSB + "0\ta\tb\t-0.1\n", ["line 2", "from 0 to 5", "'-0.1'"]),
    *(
        (
            f"score {word}",
            "stsb",
            STSB + f"0\ta\tb\t{word}\n",
            ["line 2", "from 0 to 5", repr(word)],
        )
        for word in ("nan", "inf", "1_0", "٣", "entailment", "0x1", "")
    ),
    (
        "third class",
        "rte",
        RTE + "0\ta\tb\tneutral\n",
        ["line 2", "entailment or not_entailment", "'neutral'"],
    ),
    (
        "fourth class",
        "mnli",
        "sentence1\tsentence2\tgold_label\na\tb\t3\n",
        ["line 2", "contradiction", "'3'"],
    ),
    ("no gold label", "mnli", "sentence1\tsentence2\tgold_label\na\tb\t-\n", ["line 2", "'-'"]),
    *(
        (
            f"label {word}",
            "sst2",
            f"sentence\tlabel\na\t{word}\n",
            ["line 2", "positive", repr(word)],
        )
        for word in ("nan", "-1", "1.0", "0_1", "١", "", "9" * 12)
    ),
    ("NUL", "sst2", "sentence\tlabel\na\t1\nb\0c\t0\n", ["line 3", "NUL"]),
]


@pytest.mark.parametrize(
    ("task", "table", "words"), [pytest.param(*each, id=name) for name, *each in WRONG]
)
def test_what_cannot_be_right_is_refused(
    task: str, table: str, words: list[str], tmp_path: Path
) -> None:
    """Naming file and line."""
    path = tmp_path / "train.tsv"
    path.write_text(table)
    with pytest.raises(UserError) as raised:
        read_tsv(path, TASKS[task])
    assert all(word in str(raised.value) for word in ["train.tsv'", *words]), raised.value
    assert len(str(raised.value)) < 400 + len(str(path))


def test_a_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    for encoding in ("utf-16", "utf-16-le"):
        path.write_text("sentence\tlabel\na\t1\n", encoding=encoding)
        with pytest.raises(UserError, match="UTF-16|NUL"):
            read_tsv(path, TASKS["sst2"])


def test_columns_go_by_name_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("label\tgenre\tsentence2\tsentence1\n1\tnews\tb\ta\n 0 \tnews\td\tc\n")
    assert read_tsv(path, TASKS["rte"]) == Examples([("a", "b"), ("c", "d")], [1, 0])


def test_scores_at_the_ends_of_their_range(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(
        STSB + "".join(f"0\ta\tb\t{word}\n" for word in ("0", "5", "5.000", ".5", "2.", "1e0"))
    )
    assert read_tsv(path, TASKS["stsb"]).labels == [0, 5, 5, 0.5, 2, 1]


def test_qqp_is_counted_where_others_are_refused(tmp_path: Path) -> None:
    """Its official file has lines that are broken in two, and empty questions, which everybody
    scores.
    """
    path = tmp_path / "train.tsv"
    path.write_text(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb\t1\n3\tbroken\n4\t5\t6\t\td\t0\n"
        "7\t8\t9\te\tf\tg\t1\n"
    )
    examples = read_tsv(path, TASKS["qqp"])
    assert (examples.texts, examples.labels, examples.skipped) == (
        [("a", "b"), ("", "d")],
        [1, 0],
        2,
    )
    assert examples.contents().empty == 1


def test_what_is_odd_is_said_once(tune, place, glue, capsys) -> None:
    shutil.copytree(glue / "QQP", "data/QQP")
    train = Path("data/QQP/train.tsv")
    train.write_text(train.read_text() + "9\tbroken\n9\t9\t9\t\tb\t1\n" * 2)
    shutil.copy(train, "data/QQP/dev.tsv")
    folder = fit(
        *tune,
        "--data.data_dir=data",
        "--data.task=qqp",
        "--model.parameterization=Dense",
        config="glue.yaml",
    )
    errors = capsys.readouterr().err.splitlines()
    for line in (
        "zoo: QQP train: 2 lines are broken and left out",
        "zoo: QQP train: 2 examples have an empty text",
    ):
        assert errors.count(line) == 1
    assert (
        errors.count(
            "zoo: QQP dev: every example is in train too, so its score says nothing of new ones"
        )
        == 1
    )
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["skipped_lines"] == {"train": 2, "dev": 2} and facts["empty"] == {
        "train": 2,
        "dev": 2,
    }
    assert facts["repeated"]["train"] >= 1


# ---- What the facts say --------------------------------------------------------------------------

SMALL = Examples([("a", "b"), ("c", "d")], [1, 0])
OTHERS = {
    "text": Examples([("a", "b"), ("c", "e")], [1, 0]),
    "label": Examples([("a", "b"), ("c", "d")], [1, 1]),
    "order": Examples([("c", "d"), ("a", "b")], [0, 1]),
    "column": Examples([("ab", ""), ("c", "d")], [1, 0]),
    "fewer": SMALL.subset([0]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_hash_tells_data_apart(other: str) -> None:
    assert OTHERS[other].contents().sha256 != SMALL.contents().sha256


def test_the_hash_is_of_what_is_trained_on() -> None:
    """Scores are float32, as the hub stores them; how a file was laid out is no part of it."""
    assert (
        SMALL.contents().sha256
        == dataclasses.replace(SMALL, skipped=3, revision="x").contents().sha256
    )
    single = torch.tensor(3.8).item()
    assert single != 3.8
    assert (
        Examples([("a",)], [single]).contents().sha256
        == Examples([("a",)], [3.8]).contents().sha256
    )


def test_facts_have_the_hash_of_every_split_in_use(backbones, glue, place) -> None:
    def hashes(stage: str = "fit", **options: object) -> dict[str, str]:
        data = GlueData("mnli", str(backbones("bert")), str(glue), max_length=32, **options)  # type: ignore[arg-type]
        data.setup(stage)
        return data.facts()["glue_sha256"]  # type: ignore[return-value]

    whole, part = hashes(), hashes(train_examples=10)
    assert (
        whole.keys() == {"train", "dev_matched", "dev_mismatched"} and len(set(whole.values())) == 3
    )
    assert (
        whole["train"] != part.pop("train")
        and part == hashes("validate")
        and part.items() < whole.items()
    )
    assert whole["train"] == read_tsv(glue / "MNLI" / "train.tsv", TASKS["mnli"]).contents().sha256


class Table(dict):
    _fingerprint = "0123"


@pytest.mark.parametrize(
    ("labels", "wrong"), [([0, 1], None), ([0, -1], "-1"), ([0, 2], "2"), ([0, None], "None")]
)
def test_the_hubs_labels_are_checked(labels: list, wrong: str | None, monkeypatch) -> None:
    """Its test splits have -1."""
    table = Table(sentence1=["a", "c"], sentence2=["b", "d"], label=labels)
    monkeypatch.setattr("tasks.glue.files.library", lambda name: None)
    monkeypatch.setattr("tasks.glue.files.fetch", lambda *_: table)
    if wrong is None:
        examples = from_hub("rte", TASKS["rte"], "dev")
        assert (examples.texts, examples.labels, examples.revision) == (
            [("a", "b"), ("c", "d")],
            [0, 1],
            "0123",
        )
    else:
        with pytest.raises(UserError, match=f"example 1 of dev .*{wrong}"):
            from_hub("rte", TASKS["rte"], "dev")


@pytest.mark.skipif(not (SHARED / "glue").is_dir(), reason="not here")
def test_official_files_are_read_whole() -> None:
    sizes = {
        ("rte", "train"): 2490,
        ("rte", "dev"): 277,
        ("cola", "dev"): 1043,
        ("sst2", "dev"): 872,
        ("qqp", "dev"): 1000,
        ("mnli", "dev_matched"): 1000,
    }
    for (name, split), size in sizes.items():
        examples = read_tsv(SHARED / "glue" / TASKS[name].folder / f"{split}.tsv", TASKS[name])
        assert (len(examples), examples.skipped) == (size, 0)


# ---- Sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "most"), [("batch_size", 2**16), ("eval_batch_size", 2**16), ("max_length", 2**20)]
)
def test_absurd_sizes(name: str, most: int) -> None:
    GlueData(**{name: most})  # type: ignore[arg-type]
    for size in (most + 1, 10**30, 0, -1):
        words = f"at most {most:,}, got {size:,}" if size > 1 else f"at least 1, got {size}"
        with pytest.raises(UserError, match=f"data.{name} must be {words}"):
            GlueData(**{name: size})  # type: ignore[arg-type]


def test_more_training_examples_than_there_are(backbones, glue, place) -> None:
    data = GlueData("rte", str(backbones("bert")), str(glue), max_length=32, train_examples=41)
    with pytest.raises(UserError, match="data.train_examples must be at most 40, .* got 41"):
        data.setup("fit")


# ---- Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "world"), [(7, 2), (9, 2), (33, 4), (34, 4), (35, 4), (40, 4)])
def test_ranks_together_average_over_examples(count: int, world: int) -> None:
    """However many each has: the mean over ranks of weighted means is the mean over a step's
    examples.
    """
    data, losses = ragged(count), torch.rand(count, dtype=torch.float64)
    loaders = [BucketLoader(data, 8 // world, 5, rank, world) for rank in range(world)]
    for step, indices in enumerate(BucketLoader(data, 8, 5).order(0)):
        batches = [loader.batch(step) for loader in loaders]
        means = [losses[batch["labels"]].mean() * batch.get("weight", 1) for batch in batches]
        assert sum(means) / world == pytest.approx(losses[indices].mean().item())
        assert len({"weight" in batch for batch in batches}) == 1


@pytest.mark.parametrize("examples", [13, 15])
def test_two_processes_train_as_one_does(
    examples: int, backbones, glue, place, monkeypatch
) -> None:
    """Losses and gradients of each step of an epoch, whose last one leaves the second rank none, or
    one of three.
    """
    model = GlueClassifier(str(backbones("bert")), "rte", functools.partial(DCT, ratio=0.5)).eval()
    monkeypatch.setattr(model, "log_loss", lambda loss: None)

    def steps(size: int, rank: int, world: int) -> list[torch.Tensor]:
        data = GlueData(
            "rte", str(backbones("bert")), str(glue), size, max_length=32, train_examples=examples
        )
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        data.setup("fit")
        found = []
        for batch in data.train_dataloader():
            model.zero_grad()
            loss = model.training_step(batch, 0)
            loss.backward()
            trained = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            found.append(torch.cat([loss.detach()[None], *trained]))
        return found

    whole, *parts = steps(4, 0, 1), steps(2, 0, 2), steps(2, 1, 2)
    assert len(whole) == 4
    for one, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close((first + second) / 2, one, atol=1e-6, rtol=0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_predictions_come_in_the_order_of_the_file(world: int, backbones, glue, place) -> None:
    """Of both of MNLI's files; ranks take turns."""
    seen: dict[str, dict[int, list[int]]] = {}
    for rank in range(world):
        data = GlueData("mnli", str(backbones("bert")), str(glue), eval_batch_size=5, max_length=32)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        data.setup("predict")
        for loader in data.predict_dataloader():
            indices = torch.cat([batch["index"] for batch in loader])
            assert indices.tolist() == list(range(rank, 16, world))
            labels = torch.cat([batch["labels"] for batch in loader])
            seen.setdefault(loader.dataset.name, {}).update(
                zip(indices.tolist(), labels.tolist(), strict=True)
            )
    assert list(seen) == ["dev_matched", "dev_mismatched"]
    for name, labels in seen.items():
        assert [labels[i] for i in range(16)] == read_tsv(
            glue / "MNLI" / f"{name}.tsv", TASKS["mnli"]
        ).labels


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "predict_dataloader"])
def test_more_processes_than_examples(loader: str, backbones, glue, place) -> None:
    data = GlueData("rte", str(backbones("bert")), str(glue), max_length=32)
    data.trainer = SimpleNamespace(global_rank=40, world_size=41)
    data.setup("fit")
    with pytest.raises(UserError, match="too few for 41 processes"):
        getattr(data, loader)()


def test_status_of_a_broken_file(place, tune, glue, capsys) -> None:
    shutil.copytree(glue / "RTE", "data/RTE")
    Path("data/RTE/dev.tsv").write_text(RTE + "0\ta\tb\tc\tentailment\n")
    assert (
        main(
            [
                "fit",
                "--config",
                "glue_rte.yaml",
                "--config",
                "lora_8.yaml",
                *tune,
                "--data.data_dir",
                "data",
            ]
        )
        == 2
    )
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("zoo: '") and error.endswith(
        "/dev.tsv', line 2: 5 fields instead of 4; correct that line"
    )
    assert not Path("runs").exists()
