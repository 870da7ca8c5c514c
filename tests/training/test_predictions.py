"""`zoo predict` writes a table: every example once, in order, as the model sees it, or nothing at
all.
"""

import csv
import shutil
import warnings
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import refused
from every import thinned
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from tasks.glue.benchmark import TASKS
from tasks.glue.files import read_tsv
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.runs.checkpoints import rebuild
from zoo.training.callbacks import Predictions
from zoo.training.callbacks.predictions import WIDEST, columns, render
from zoo.training.trainer import equip


def table(path: Path) -> dict[str, list[str]]:
    """The columns of a table, as the csv module reads it."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    return dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))


def scores(capsys: pytest.CaptureFixture[str], run: str) -> dict[str, float]:
    """What `zoo validate` prints."""
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", run]) == 0
    rows = (line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines())
    return {name.strip(): float(value) for name, value in rows}


# ---- What tasks predict --------------------------------------------------------------------------


def test_glue_is_what_the_network_says_of_each_example(
    tuned, tune, glue, backbones, capsys
) -> None:
    """Held against one unpadded example at a time, in the order of the file."""
    transformers = pytest.importorskip("transformers")
    accuracy = scores(capsys, tuned)["accuracy"]
    assert main(["predict", "--ckpt_path", tuned]) == 0
    path = Path(tuned, "predictions.tsv")
    assert capsys.readouterr().out.splitlines() == [
        "predictions  16 rows: index, prediction, label, p_entailment, p_not_entailment",
        f"table        {path}",
    ]
    found, examples = table(path), read_tsv(glue / "RTE" / "dev.tsv", TASKS["rte"])
    names, net = TASKS["rte"].labels, rebuild(Path(tuned, "checkpoints", "last.ckpt")).net
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbones("bert"))
    expected = torch.cat(
        [
            net(**tokenizer(*texts, return_tensors="pt", truncation=True, max_length=32))
            .logits.detach()
            .softmax(-1)
            for texts in examples.texts
        ]
    )
    assert found["index"] == [str(i) for i in range(16)]
    assert found["label"] == [names[int(label)] for label in examples.labels]
    assert found["prediction"] == [names[i] for i in expected.argmax(-1)]
    for i, name in enumerate(names):
        np.testing.assert_allclose(np.array(found[f"p_{name}"], float), expected[:, i], atol=1e-5)
    right = [a == b for a, b in zip(found["label"], found["prediction"], strict=True)]
    assert sum(right) / len(right) == pytest.approx(accuracy, abs=1e-3)


@pytest.mark.parametrize("task", thinned(["mnli", "stsb"], 2))
def test_two_files_and_a_regression(task: str, trained, tune, glue, capsys) -> None:
    run = trained(
        "run", "glue.yaml", *tune, "--data.task", task, "--model.parameterization", "Dense"
    )
    loss = scores(capsys, run)["validation loss"] if task == "stsb" else None
    assert main(["predict", "--ckpt_path", run]) == 0
    behind = ["-dev_matched", "-dev_mismatched"] if task == "mnli" else [""]
    assert sorted(Path(run).glob("*.tsv")) == [
        Path(run, f"predictions{name}.tsv") for name in behind
    ]
    for name in behind:
        found = table(Path(run, f"predictions{name}.tsv"))
        labels = read_tsv(
            glue / TASKS[task].folder / f"{name[1:] or 'dev'}.tsv", TASKS[task]
        ).labels
        if task == "mnli":
            assert found["label"] == [TASKS["mnli"].labels[int(label)] for label in labels]
        else:
            prediction, label = (np.array(found[key], float) for key in ("prediction", "label"))
            np.testing.assert_allclose(label, labels, rtol=1e-6)
            assert ((prediction - label) ** 2).mean() == pytest.approx(loss, abs=1e-4)


def test_text_is_scored_place_by_place(char: str, text: Path, capsys) -> None:
    """The mean of the losses is the validation loss, and the labels are the validation text."""
    loss = scores(capsys, char)["validation loss"]
    assert main(["predict", "--ckpt_path", char]) == 0
    found = table(Path(char, "predictions.tsv"))
    held = text.read_text()[int(0.9 * 4020) :]
    assert found["index"] == [str(i) for i in range(402)]
    assert "".join(found["label"]) == held.replace("\n", "\\n")
    assert np.array(found["loss"], float).mean() == pytest.approx(loss, abs=6e-5)
    assert set(found["characters"]) == {"1"}


# ---- Where it goes -------------------------------------------------------------------------------


def test_a_foreign_file_in_its_place_is_kept(char: str, capsys) -> None:
    path = Path(char, "predictions.tsv")
    path.write_text("my own notes\n")
    refused(
        capsys,
        ["predict", "--ckpt_path", char],
        "predictions.tsv'",
        "there already",
        "move it away",
    )
    assert path.read_text() == "my own notes\n"


def test_a_checkpoint_in_no_run_has_it_beside_itself(
    char: str, small: list[str], handed: Path, capsys
) -> None:
    Path("kept").mkdir()
    shutil.copy("adapter.safetensors", "kept")
    shutil.copy(Path(char, "checkpoints", "last.ckpt"), "kept.ckpt")
    assert main(["predict", "--ckpt_path", "kept/adapter.safetensors"]) == 0
    assert len(table(Path("kept/predictions.tsv"))["index"]) == 402
    assert not Path("predictions.tsv").exists()
    assert main(["predict", "--config", "dct_half.yaml", *small, "--ckpt_path", "kept.ckpt"]) == 0
    assert len(table(Path("predictions.tsv"))["index"]) == 402


def test_a_prediction_that_fails_leaves_the_old_table(char: str, monkeypatch, capsys) -> None:
    from tasks import CharLM

    path = Path(char, "predictions.tsv")
    assert main(["predict", "--ckpt_path", char]) == 0
    whole, step = path.read_bytes(), CharLM.predict_step

    def fail(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            raise UserError("it fails")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CharLM, "predict_step", fail)
    assert main(["predict", "--ckpt_path", char]) == 2
    assert path.read_bytes() == whole and list(Path(char).glob(".*")) == []


# ---- Any task ------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["a", "b"])
VALUES = torch.arange(6.0).view(3, 2)
OUTPUTS: list[tuple[str, Any, dict[str, list[Any]]]] = [
    ("nothing", None, {}),
    ("vector", torch.arange(3), {"prediction": [0, 1, 2]}),
    ("matrix", VALUES, {"prediction_0": [0, 2, 4], "prediction_1": [1, 3, 5]}),
    ("cube", VALUES[..., None], {"prediction_0": [0, 2, 4], "prediction_1": [1, 3, 5]}),
    ("scalar", torch.tensor(2.0), {"prediction": [2.0]}),
    ("half", torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True), {"prediction": [0.5]}),
    ("truth", torch.tensor([True, False]), {"prediction": [True, False]}),
    ("no rows", torch.empty(0, 2), {"prediction_0": [], "prediction_1": []}),
    ("array", np.array([1, 2]), {"prediction": [1, 2]}),
    ("words", ["a", "b"], {"prediction": ["a", "b"]}),
    ("word", "ab", {"prediction": ["ab"]}),
    ("mapping", {"x": torch.arange(2), "word": ["a", "b"]}, {"x": [0, 1], "word": ["a", "b"]}),
    ("nested", {"x": {"y": torch.arange(2)}}, {"y": [0, 1]}),
    ("tuple", (torch.arange(2), torch.ones(2)), {"prediction_0": [0, 1], "prediction_1": [1, 1]}),
    ("named tuple", Pair(torch.arange(2), torch.ones(2)), {"a": [0, 1], "b": [1, 1]}),
]


@pytest.mark.parametrize(
    ("outputs", "expected"), [pytest.param(*each, id=name) for name, *each in OUTPUTS]
)
def test_whatever_a_step_gives_is_columns(outputs: Any, expected: dict[str, list[Any]]) -> None:
    assert {name: list(column) for name, column in columns(outputs).items()} == expected


def test_logits_of_a_vocabulary_are_no_table() -> None:
    assert len(columns(torch.zeros(2, WIDEST))) == WIDEST
    with pytest.raises(UserError, match=rf"\(2, 3, {WIDEST}\) .* give fewer"):
        columns(torch.zeros(2, 3, WIDEST))


def test_texts_come_back_from_a_table(tmp_path: Path) -> None:
    texts = [
        'a "quote"',
        "tab\t",
        "line\nbreak\r",
        "",
        " ",
        "\\n",
        "\u2028",
        "l'été",
        "\ud800",
        "a,b",
    ]
    (tmp_path / "t.tsv").write_text(
        render([["text"], *([text] for text in texts)]), encoding="utf-8"
    )
    found = table(tmp_path / "t.tsv")["text"]
    assert len(set(found)) == len(texts) and all(word.isprintable() for word in found)
    assert (found[0], found[2], found[5], found[7]) == (
        texts[0],
        "line\\nbreak\\r",
        "\\\\n",
        texts[7],
    )


@pytest.mark.parametrize("value", [1 / 3, 1e-30, float("nan"), float("-inf"), 16777217.0])
def test_float32s_come_back_from_a_table(value: float, tmp_path: Path) -> None:
    single = torch.tensor(value)
    back = torch.tensor(float(render([[single.item()]])))
    assert torch.equal(back.nan_to_num(7), single.nan_to_num(7))


class Plain(LightningModule):
    """A task that says of each number what it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.answer(batch)


def predict(answer: Any, *loaders: DataLoader) -> Predictions:
    callback = Predictions()
    trainer = Trainer(
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.predict(Plain(answer), list(loaders) if len(loaders) > 1 else loaders[0])
    return callback


NUMBERS = torch.tensor([3, 1, 2, 0, 4])


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
class TestAnyTask:
    def test_rows_are_numbered_as_they_come(self, place: Path) -> None:
        predict(lambda batch: batch * 10, DataLoader(NUMBERS, batch_size=2))
        assert table(Path("predictions.tsv")) == {
            "index": list("01234"),
            "prediction": ["30", "10", "20", "0", "40"],
        }

    @pytest.mark.parametrize(
        "shuffled", [{"shuffle": True}, {"sampler": [4, 0, 3, 1, 2]}, {"drop_last": True}]
    )
    def test_the_sampler_says_which_they_are(self, shuffled: dict[str, Any], place: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, of shuffling
            predict(lambda batch: batch * 10, DataLoader(NUMBERS, batch_size=2, **shuffled))
        assert table(Path("predictions.tsv")) == {
            "index": list("01234"),
            "prediction": ["30", "10", "20", "0", "40"],
        }

    def test_a_batch_size_by_its_place(self, place: Path) -> None:
        class Data(LightningDataModule):
            def predict_dataloader(self) -> DataLoader:
                return DataLoader(NUMBERS, 2)

        callback = Predictions()
        trainer = Trainer(
            callbacks=[callback], logger=False, enable_progress_bar=False, accelerator="cpu"
        )
        equip(trainer, resume=False)
        trainer.predict(Plain(lambda batch: batch), datamodule=Data())
        assert table(Path("predictions.tsv"))["prediction"] == list("31204")

    def test_rows_that_are_no_examples_after_some_that_are(self, place: Path) -> None:
        with pytest.raises(UserError, match="1 rows for a batch of 2 examples, after one for each"):
            predict(
                lambda batch: batch if 3 in batch else batch[:1], DataLoader(NUMBERS, batch_size=2)
            )

    def test_an_index_says_which_they_are(self, place: Path) -> None:
        predict(lambda batch: {"x": batch * 10, "index": batch}, DataLoader(NUMBERS, batch_size=2))
        assert table(Path("predictions.tsv")) == {
            "index": list("01234"),
            "x": ["0", "10", "20", "30", "40"],
        }

    def test_an_earlier_table_is_replaced_and_nothing_else(self, place: Path) -> None:
        path = Path("predictions.tsv")
        for numbers in (NUMBERS, NUMBERS[:2]):
            predict(lambda batch: batch, DataLoader(numbers))
            assert len(table(path)["index"]) == len(numbers)
        for other in (lambda: path.write_text(""), lambda: path.symlink_to("nowhere"), path.mkdir):
            path.unlink()
            other()
            with pytest.raises(UserError, match="'predictions.tsv' is there already"):
                predict(lambda batch: batch, DataLoader(NUMBERS))

    def test_each_loader_has_its_own(self, place: Path) -> None:
        predict(lambda batch: batch, DataLoader(NUMBERS), DataLoader(NUMBERS[:2]))
        assert [len(table(Path(f"predictions-{i}.tsv"))["index"]) for i in (0, 1)] == [5, 2]

    @pytest.mark.filterwarnings("ignore:predict returned None")
    def test_nothing_is_no_file(self, place: Path, capsys) -> None:
        predict(lambda batch: None, DataLoader(NUMBERS))
        assert list(place.iterdir()) == [] and "predictions  none" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (lambda batch: {"a": batch, "b": batch[:1]}, "Plain gives 2 rows, but 1 of 'b'"),
            (lambda batch: {f"x{batch[0]}": batch}, "Plain gives x2 after x3"),
        ],
    )
    def test_what_is_no_table(self, answer: Any, words: str, place: Path) -> None:
        with pytest.raises(UserError, match=words):
            predict(answer, DataLoader(NUMBERS, batch_size=2))
        assert list(place.iterdir()) == []


def test_several_processes_are_put_in_order(place: Path, monkeypatch, capsys) -> None:
    """Each example once, also where ranks were padded with one that another has."""
    ranks = [Predictions(), Predictions()]
    trainer: Any = SimpleNamespace(
        world_size=2, ckpt_path=None, predict_dataloaders=None, is_global_zero=True
    )
    for callback, numbers in zip(ranks, ([0, 2, 4], [1, 3, 0]), strict=True):
        callback.on_predict_start(trainer, Plain(None))
        index = torch.tensor(numbers)
        callback.on_predict_batch_end(
            trainer, Plain(None), {"index": index, "x": index * 10}, None, 0
        )

    def gather(parts: list[Any], mine: Any) -> None:
        parts[:] = [(callback.rows, callback.names) for callback in ranks]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    ranks[0].on_predict_end(trainer, Plain(None))
    assert table(Path("predictions.tsv")) == {
        "index": list("01234"),
        "x": ["0", "10", "20", "30", "40"],
    }
    with pytest.raises(UserError, match="Plain gives no 'index'.*--trainer.devices 1"):
        ranks[0].on_predict_batch_end(trainer, Plain(None), torch.arange(2), None, 0)
