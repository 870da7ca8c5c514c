"""What a run says of its data, method and conditions: by this it goes on, is scored, and is
compared.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from every import thinned
from fits import equal, fit, weights
from tiny import save_glue

from zoo.__main__ import main
from zoo.files.flat import as_json
from zoo.files.paths import anchored
from zoo.runs.finished_runs import read
from zoo.runs.names import label
from zoo.runs.updates import read as read_updates
from zoo.studies.report.comparison import compare
from zoo.training.identity import KEY, digest_of_weights

TASK = '''
import hashlib
from pathlib import Path

import torch
from torch import nn

from zoo.layers.convert import ParameterizationFactory
from zoo.training.module import ZooData, ZooModule


class Numbers(ZooData):
    """y of x, as a file has them."""

    def __init__(self, file: str = "numbers.txt", batch: int = 4) -> None:
        super().__init__()
        self.file, self.batch = file, batch

    def facts(self):
        return {"checksum": hashlib.md5(Path(self.file).read_bytes()).hexdigest()}

    def setup(self, stage):
        values = torch.tensor([float(line) for line in Path(self.file).read_text().split()])
        self.pairs = torch.utils.data.TensorDataset(values.view(-1, 8), values.view(-1, 8).flip(1))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.pairs, self.batch)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Regression(ZooModule):
    def __init__(self, parameterization: ParameterizationFactory, seed: int = 0) -> None:
        super().__init__(parameterization, seed=seed)
        self.save_settings()
        self.net = self.parameterize(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)))

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])
'''
OTHER = "over the lazy dog jumps the quick brown fox, and runs away.\n"
"""The characters of the text of the fixture, in another order."""


def said(capsys: pytest.CaptureFixture[str], status: int, *argv: str) -> str:
    """The line on stderr of a command with this status."""
    capsys.readouterr()
    assert main(list(argv)) == status
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("zoo: ") and "the run imports" not in line
    ]
    assert len(lines) <= 1, lines
    return lines[0] if lines else ""


def files(folder: Path) -> dict[Path, bytes]:
    """What every file below a folder holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder: Path, change=None, name: str = "last.ckpt") -> dict:
    """What a checkpoint keeps of its run, after a change."""
    path = folder / "checkpoints" / name
    content = torch.load(path, weights_only=True)
    if change is not None:
        change(content)
        torch.save(content, path)
    return content.get(KEY)


def test_a_run_does_not_go_on_with_an_edited_text(place, small, text, capsys):
    folder = fit(*small)
    text.write_text(OTHER * 67)
    before = files(place)
    line = said(capsys, 2, "fit", "--ckpt_path", str(folder), "--trainer.max_steps=9")
    assert (
        "other data than the run was trained on: corpus_sha256 was" in line
        and "--data.corpus" in line
    )
    named = said(
        capsys,
        2,
        "fit",
        "--ckpt_path",
        str(folder),
        "--trainer.max_steps=9",
        f"--data.corpus={text}",
    )
    assert "going on takes the original" in named
    assert files(place) == before


@pytest.mark.parametrize("command", thinned(["validate", "test", "predict"], "validate".__eq__))
def test_looking_at_other_data_takes_its_name(command, place, small, text, capsys):
    folder, old = fit(*small), text.read_text()
    assert said(capsys, 0, command, "--ckpt_path", str(folder)) == ""
    text.write_text(OTHER * 67)
    before = files(place)
    line = said(capsys, 2, command, "--ckpt_path", str(folder), "--data.batch_size=2")
    assert (
        "settings lead to other data" in line
        and "name the data to look at, as --data.corpus" in line
    )
    assert files(place) == before
    (place.parent / "no.yaml").write_text("trainer: {limit_val_batches: 2}\n")
    (place.parent / "yes.yaml").write_text(
        f"base: {place.parent}/no.yaml\ndata: {{init_args: {{corpus: {text}}}}}\n"
    )
    silent = f"-c{place.parent}/no.yaml"
    assert "name the data to look at" in said(
        capsys, 2, command, "--ckpt_path", str(folder), silent
    )
    for option in (
        [f"--data.corpus={text}"],
        ["--data.corpus", str(text)],
        ["--config", f"{place.parent}/yes.yaml"],
    ):
        assert "note: this is other data" in said(
            capsys, 0, command, "--ckpt_path", str(folder), *option
        )
    text.write_text(old)
    moved = shutil.move(text, place / "moved.txt")
    assert said(capsys, 0, command, "--ckpt_path", str(folder), f"--data.corpus={moved}") == ""


@pytest.mark.slow
def test_masking_on_other_data_takes_its_name(place, small, text, capsys):
    folder, words = fit(*small), ["--budgets=50", "--order=magnitude", "--transform=dct"]
    text.write_text(OTHER * 67)
    assert "settings lead to other data" in said(capsys, 2, "mask", str(folder), *words)
    assert "note: this is other data" in said(
        capsys, 0, "mask", str(folder), *words, f"--data.corpus={text}"
    )


def test_an_adapter_keeps_the_identity(place, small, text, capsys):
    folder = fit(*small)
    assert main(["export", str(folder), "--to", "safetensors", "--output", "adapter"]) == 0
    adapter = str(Path("adapter") / "adapter.safetensors")
    assert read_updates(adapter).settings == read_updates(str(folder)).settings
    assert said(capsys, 0, "validate", "--ckpt_path", adapter) == ""
    text.write_text(OTHER * 67)
    assert "settings lead to other data" in said(capsys, 2, "validate", "--ckpt_path", adapter)


@pytest.mark.slow
def test_a_relative_path_means_the_same_everywhere(place, small, text, monkeypatch, capsys):
    """Also where a file of that name lies beside the one who calls."""
    Path("here").mkdir()
    shutil.copy(text, "here/words.txt")
    monkeypatch.chdir("here")
    folder = fit(*small, "--data.corpus=words.txt")
    whole, loss = Path(folder).absolute(), json.loads((folder / "summary.json").read_text())["loss"]
    monkeypatch.chdir(place)
    for other in (None, OTHER):
        if other:
            Path("words.txt").write_text(other * 67)
        assert said(capsys, 0, "validate", "--ckpt_path", str(whole)) == ""
        assert main(["validate", "--ckpt_path", str(whole)]) == 0
        assert f"{loss:.4f}" in capsys.readouterr().out
    assert main(["fit", "--ckpt_path", str(whole), "--trainer.max_steps=8"]) == 0
    (place / "here" / "words.txt").unlink()
    assert "no corpus" in said(capsys, 2, "validate", "--ckpt_path", str(whole))
    assert said(capsys, 0, "validate", "--ckpt_path", str(whole), f"--data.corpus={text}") == ""


def test_a_name_is_no_path(place, small, tune):
    """Tiny Shakespeare, pydoc and a task of GLUE are called so, whatever lies in the current
    folder.
    """
    for name in ("pydoc", "rte", "tinyshakespeare"):
        Path(name).write_text(OTHER * 67)
    folder = fit(
        *small, "--data.corpus=pydoc", "--trainer.max_steps=1", "--trainer.limit_val_batches=1"
    )
    assert json.loads((folder / "summary.json").read_text())["corpus"] == "pydoc"
    assert (
        json.loads((fit(*tune, config="glue_rte lora_8") / "summary.json").read_text())["data_name"]
        == "rte"
    )


@pytest.mark.parametrize("value", ["", "no such file", "a\0b", "x" * 5000, 3, None, ["text.txt"]])
def test_what_is_no_path_stays_as_it_is(value):
    assert anchored(value) == value


def test_a_checkpoint_of_an_older_zoo_goes_on(place, small, text):
    folder = fit(*small)
    record(folder, lambda content: content.pop(KEY))
    text.write_text(OTHER * 67)
    assert main(["validate", "--ckpt_path", str(folder)]) == 0
    assert (
        main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps=8", "--data.batch_size=2"])
        == 0
    )
    assert record(folder)["batch"]["size"] == 2


@pytest.mark.parametrize(
    "change",
    thinned(
        [
            [],
            "x",
            {},
            {"identity": {}},
            {"identity": {"data": 1, "method": {}, "conditions": {}}},
            {
                "identity": {"data": {}, "method": {}, "conditions": {}},
                "batch": {"size": -1, "processes": 1, "accumulate": 1},
            },
            {"identity": {"data": {}, "method": {}, "conditions": {}}, "batch": {"size": 4}},
            {"identity": {"data": {1: 2}, "method": {}, "conditions": {}}, "data_name": 7},
        ],
        3,
    ),
)
def test_a_damaged_record_is_refused(change, handed, capsys):
    record(Path("run"), lambda content: content.update({KEY: change}))
    for argv in (
        ["validate", "--ckpt_path", "run"],
        ["fit", "--ckpt_path", "run"],
        ["analyze", "run"],
    ):
        assert "is damaged: its zoo_run" in said(capsys, 2, *argv)


# ---- GLUE and pretrained networks ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "dev"])
def test_glue_files_that_were_edited(split, place, tune, tmp_path, capsys):
    """As many rows, one word of which is another."""
    data = shutil.copytree(save_glue(tmp_path / "mine"), tmp_path / "own")
    words = [*[word for word in tune if "data_dir" not in word], f"--data.data_dir={data}"]
    first = fit(*words, "--seed_everything=1", config="glue_rte lora_8")
    file = data / "RTE" / f"{split}.tsv"
    rows = file.read_text().splitlines()
    rows[1] = rows[1].replace("\t", "\twhy ", 1)
    file.write_text("\n".join(rows) + "\n")
    assert f"glue_sha256.{split} was" in said(
        capsys, 2, "fit", "--ckpt_path", str(first), "--trainer.max_epochs=2"
    )
    if split == "dev":
        assert "name the data to look at, as --data.data_dir" in said(
            capsys, 2, "validate", "--ckpt_path", str(first)
        )
        fine = said(capsys, 0, "validate", "--ckpt_path", str(first), f"--data.data_dir={data}")
        assert "note: this is other data" in fine
    else:  # which validation does not read
        assert said(capsys, 0, "validate", "--ckpt_path", str(first)) == ""
    second = fit(*words, "--seed_everything=2", config="glue_rte lora_8")
    runs, _ = read(["runs"])
    assert len(compare(runs)["comparisons"]) == 2
    groups = [
        source.group for source in label([read_updates(str(folder)) for folder in (first, second)])
    ]
    assert len(set(groups)) == 2


@pytest.fixture
def own_backbone(backbones, tmp_path) -> Path:
    return shutil.copytree(backbones("bert"), tmp_path / "backbone")


def test_a_backbone_that_was_edited(own_backbone, place, tune, capsys):
    """Its weights are in no checkpoint: every command would score another network."""
    from transformers import AutoModel

    folder = fit(*tune, f"--model.backbone={own_backbone}", config="glue_rte lora_8")
    run = str(folder)
    network = AutoModel.from_pretrained(own_backbone)
    copy = own_backbone.parent / "again"
    shutil.copytree(own_backbone, copy)
    # Rounded to what a run may hold it in, under another name.
    network.bfloat16().float().save_pretrained(copy)
    assert said(capsys, 0, "validate", "--ckpt_path", run, f"--model.backbone={copy}") == ""
    with torch.no_grad():
        network.get_parameter("encoder.layer.0.output.dense.weight")[0, 0] += 0.5
    network.save_pretrained(own_backbone)
    for argv in (
        ["validate", "--ckpt_path", run],
        ["fit", "--ckpt_path", run, "--trainer.max_epochs=2"],
        ["mask", run],
        ["analyze", run],
        ["export", run, "--to", "dense"],
    ):
        option = "--backbone" if argv[0] in ("analyze", "export", "mask") else "--model.backbone"
        line = said(capsys, 2, *argv)
        assert "trained on another network: its backbone_sha256" in line and line.endswith(
            f"as {option}"
        )


def test_a_tokenizer_that_was_edited(own_backbone, place, tune, capsys):
    folder = fit(*tune, f"--model.backbone={own_backbone}", config="glue_rte lora_8")
    file = own_backbone / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["the"], vocabulary["not"] = vocabulary["not"], vocabulary["the"]
    file.write_text(json.dumps(content))
    assert "tokenizer_sha256 was" in said(capsys, 2, "validate", "--ckpt_path", str(folder))


def test_values_stay_apart_as_json():
    """Two facts that differ differ there too, and one is always the same."""
    values = [
        torch.tensor([1, 2]),
        torch.tensor([1, 3]),
        Path("a"),
        Path("b"),
        1,
        1.5,
        "x",
        None,
        {"a": 1},
        {1, 2},
        object,
        float("inf"),
        b"a",
        b"b",
    ]
    found = [json.dumps(as_json(value)) for value in values]
    assert len(set(found)) == len(values) and found == [
        json.dumps(as_json(value)) for value in values
    ]
    assert as_json([Own()]) == as_json([Own()])


class Own:
    """Python shows where it is in memory."""


def test_weights_are_known_by_their_numbers():
    """Not by order, dtype or layout; by every one of them."""
    a, b = torch.randn(5, 3), torch.randn(7)
    known = digest_of_weights([a, b])
    assert known == digest_of_weights([b, a]) == digest_of_weights([a.bfloat16(), b.double()])
    assert known == digest_of_weights([a.T.contiguous().T, b])
    other = b.clone()
    other[-1] += 1
    assert (
        len(
            {
                known,
                digest_of_weights([a, other]),
                digest_of_weights([a]),
                digest_of_weights([a.T, b]),
            }
        )
        == 4
    )


# ---- A task of the user's own --------------------------------------------------------------------


@pytest.fixture
def own(place, monkeypatch):
    """Fits of a task in a file of the current folder."""
    Path("my_numbers.py").write_text(TASK)
    monkeypatch.setattr("sys.dont_write_bytecode", True)

    def write(first: float) -> None:
        Path("numbers.txt").write_text("\n".join(str(first + i / 100) for i in range(128)))

    def run(*words: str) -> Path:
        config = {
            "model": {
                "class_path": "my_numbers.Regression",
                "init_args": {
                    "parameterization": {"class_path": "DCT", "init_args": {"ratio": 0.5}}
                },
            },
            "data": {"class_path": "my_numbers.Numbers"},
            "trainer": {"max_steps": 4},
        }
        Path("own.json").write_text(json.dumps(config))
        return fit(*words, config="own.json")

    write(0.0)
    yield run, write
    sys.modules.pop("my_numbers", None)


def test_a_task_of_the_users_own_on_different_data(own, capsys):
    """It has a fact of its own, that zoo knows nothing of."""
    run, write = own
    first, again = run("--seed_everything=1"), run("--seed_everything=2")
    identity = json.loads((first / "summary.json").read_text())["identity"]
    assert set(identity) == {"data", "method", "conditions"} and set(identity["data"]) == {
        "checksum"
    }
    assert len(compare(read(["runs"])[0])["comparisons"][0]["methods"]) == 1
    write(1.0)
    other = run("--seed_everything=3")
    comparisons = compare(read(["runs"])[0])["comparisons"]
    assert [comparison["methods"][0]["n"] for comparison in comparisons] == [2, 1]
    trust = ("--trust", "my_numbers")
    mask = ["--budgets=50", "--order=magnitude", "--transform=dct", "--data.file=numbers.txt"]
    for command, words, both in (
        ("analyze", ["--null=5"], ": 2 runs together"),
        ("mask", mask, "\nloss of 2 runs, "),
    ):
        capsys.readouterr()
        assert main([command, *map(str, (first, again, other)), *words, *trust]) == 0
        out = capsys.readouterr().out
        assert out.count(both) == 1 and "3 runs" not in out and "checksum=" in out, command
    assert "checksum was" in said(
        capsys, 2, "fit", "--ckpt_path", str(first), "--trainer.max_steps=6", *trust
    )
    assert "checksum was" in said(capsys, 2, "validate", "--ckpt_path", str(first), *trust)
    line = said(capsys, 2, "validate", "--ckpt_path", str(first), "--data.batch=4", *trust)
    assert line.endswith("name the data to look at, as --data.file")
    line = said(capsys, 0, "validate", "--ckpt_path", str(first), "--data.file=numbers.txt", *trust)
    assert "note: this is other data" in line


def test_a_file_that_is_edited_while_a_run_trains_on_it(own):
    """The run is of what it has read."""
    run, write = own
    first = json.loads((run("--seed_everything=1") / "summary.json").read_text())["identity"][
        "data"
    ]
    source = Path("my_numbers.py")
    edit = "        Path('numbers.txt').write_text('0 ' * 64)\n"
    source.write_text(TASK.replace("        self.log(", edit + "        self.log("))
    sys.modules.pop("my_numbers")
    folder = run("--seed_everything=2")
    assert json.loads((folder / "summary.json").read_text())["identity"]["data"] == first
    assert record(folder)["identity"]["data"] == first


@pytest.mark.parametrize("words", [["--data.batch=8"], ["--trainer.limit_train_batches=2"]])
def test_settings_of_a_users_own_task_tell_its_runs_apart(words, own):
    run, _ = own
    run("--seed_everything=1")
    run("--seed_everything=2", *words)
    assert len(compare(read(["runs"])[0])["comparisons"]) == 2


# ---- The global batch ----------------------------------------------------------------------------


def as_if(folder: Path, **batch: int) -> None:
    """Let a run have been trained by so many processes."""
    record(folder, lambda content: content[KEY]["batch"].update(batch))


@pytest.mark.parametrize(
    ("batch", "words", "remedies"),
    thinned(
        [
            ({"processes": 2}, [], "give --trainer.devices 2, or --data.batch_size 8"),
            ({"processes": 3}, ["--data.batch_size=8"], "give --data.batch_size 12"),
            ({"accumulate": 2}, [], "give --trainer.accumulate_grad_batches 2"),
            (
                {"processes": 2, "accumulate": 2},
                ["--data.batch_size=8"],
                "give --trainer.accumulate_grad_batches 2",
            ),
            ({}, ["--data.batch_size=5"], "give --data.batch_size 4"),
            (
                {"processes": 2, "numbered": False},
                ["--data.batch_size=8"],
                "give --trainer.devices 2 --data.batch_size 4",
            ),
        ],
        3,
    ),
)
def test_another_global_batch_is_refused(batch, words, remedies, handed, capsys):
    as_if(Path("run"), **batch)
    before = files(handed)
    line = said(capsys, 2, "fit", "--ckpt_path", "run", "--trainer.max_steps=9", *words)
    assert "trained on global batches of" in line and line.endswith(remedies)
    assert files(handed) == before
    assert said(capsys, 0, "validate", "--ckpt_path", "run", *words) == ""


def test_one_global_batch_over_fewer_processes(place, small):
    """Windows are a function of the step and the global batch: 2 x 4 goes on as 1 x 8, exactly."""
    whole = fit(*small, "--data.batch_size=8", "--trainer.max_steps=8", "--name=whole")
    folder = fit(*small, "--data.batch_size=8", "--name=two")
    as_if(folder, size=4, processes=2)
    assert json.loads((folder / "summary.json").read_text())["global_batch"] == 8
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps=8"]) == 0
    cut = [
        json.loads((run / "summary.json").read_text())["identity"]["conditions"]
        for run in (whole, folder)
    ]
    planned = cut[1].pop("planned_steps_until_6")  # of a schedule that was made for fewer steps
    assert planned == 6 and cut[0] == cut[1]
    assert equal(weights(folder), weights(whole))  # both are still in their warm-up
