"""A damaged file is said to be damaged, in one line, by every command that reads it; and one bit is
damage.
"""

import functools
import json
import os
import random
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import refused
from every import thinned
from fits import same
from safetensors.torch import save_file

from tasks import CharLM
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.files.paths import ADAPTER
from zoo.files.tensors import read_tensors, write_tensors
from zoo.parameterizations import DCT
from zoo.runs import checkpoints
from zoo.training.checkpoint_files import OF, CheckpointFiles, load

LAST = Path("run/checkpoints/last.ckpt")


def beside() -> Path:
    (found,) = LAST.parent.glob("last.resume_*.pt")
    return found


@pytest.mark.parametrize("name", thinned(["last.ckpt", "the file beside", "the adapter"], 3))
def test_a_flipped_bit_is_damage_or_changes_nothing(name, handed):
    """Anywhere: in numbers, in pickled words, in the headers of the archive."""
    path = {"last.ckpt": LAST, "the file beside": beside(), "the adapter": Path(ADAPTER)}[name]
    whole, draw, found = path.read_bytes(), random.Random(0), 0
    read = LAST if name != "the adapter" else path
    content = load(read)
    places = [draw.randrange(len(whole)) for _ in range(120)] + list(range(0, 200, 5))
    places += [len(whole) - 1 - place for place in range(0, 200, 5)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(load(read), content), place
        except UserError:
            found += 1
    assert found > len(places) / 2


def test_numbers_of_a_damaged_resume_file_are_no_learning_rate(handed, capsys):
    path = beside()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    path.write_bytes(damaged)
    refused(capsys, ["fit", "--ckpt_path", "run", "--trainer.max_steps=8"], path.name, "damaged")
    for command in (
        "validate --ckpt_path run",
        "generate --ckpt_path run --length 1",
        "export run --to dense --output o",
        "export run --to safetensors --output p",
    ):
        assert main(command.split()) == 0  # none of which needs it


def test_equal_runs_give_adapters_of_equal_bytes(handed):
    whole = Path(ADAPTER).read_bytes()
    for output in ("a", "b"):
        assert main(["export", "run", "--to", "safetensors", "--output", output]) == 0
        assert (Path(output) / ADAPTER).read_bytes() == whole


def test_metadata_stand_in_one_order(tmp_path):
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(2, 3, dtype=torch.bfloat16)}
    metadata = {f"key{i}": "é\n" for i in range(20)}
    for name in "xy":
        write_tensors(
            tmp_path / name, tensors, dict(reversed(metadata.items())) if name == "y" else metadata
        )
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    found, about = read_tensors(tmp_path / "x")
    assert same(found, tensors) and about == metadata | {"format": "pt"}


# ---- Structure -----------------------------------------------------------------------------------

SHAPE = (10_000, 10_000)
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda c: [c],
    "no mapping": lambda c: c | {"state_dict": [1]},
    "empty": lambda c: {},
    "a string tensor": lambda c: c | {"state_dict": c["state_dict"] | {"net.tokens.weight": "x"}},
    "a version": lambda c: c | {"pytorch-lightning_version": "x"},
    "no version": lambda c: c | {"pytorch-lightning_version": 2},
    "a path as step": lambda c: c | {"global_step": "../../x"},
    "a step": lambda c: c | {"global_step": -1},
    "a huge step": lambda c: c | {"global_step": 2**70},
    "a true step": lambda c: c | {"global_step": True},
    "an epoch": lambda c: c | {"epoch": "x"},
    "settings": lambda c: c | {"hyper_parameters": ["x"]},
    "a task": lambda c: c | {"zoo_task": ["os"]},
    "fingerprints": lambda c: c | {"zoo_fingerprints": {"a": 1}},
    "a place": lambda c: c | {"CharData": {"position": -5}},
    "no place": lambda c: c | {"CharData": [1]},
    "NaN": lambda c: with_tensors(c, lambda t: t * float("nan")),
    "inf": lambda c: with_tensors(c, lambda t: t + 1e39),
    "int8": lambda c: with_tensors(c, lambda t: t.to(torch.int8)),
    "complex": lambda c: with_tensors(c, lambda t: t + 0j),
    "sparse": lambda c: with_tensors(c, lambda t: t.to_sparse()),
    "repeated numbers": lambda c: with_tensors(c, lambda t: torch.zeros(1).expand(SHAPE)),
    "a missing tensor": lambda c: c | {"state_dict": dict(list(c["state_dict"].items())[1:])},
    "one tensor more": lambda c: c | {"state_dict": c["state_dict"] | {"more": torch.zeros(1)}},
    "a million layers": lambda c: with_settings(c, layers=1_000_000),
    "wide": lambda c: with_settings(c, width=10**7),
    "heads": lambda c: with_settings(c, heads=0),
    "a block": lambda c: with_settings(c, block_size=10**10),
    "layers in words": lambda c: with_settings(c, layers="many"),
    "deep": lambda c: with_settings(c, targets=nested()),
}
"""What is wrong with `last.ckpt`."""
ONLY_FIT = ("a place", "no place")
SETTINGS = ("a million layers", "wide", "heads", "a block", "layers in words")
"""What only those read who make a network of a checkpoint's settings.

Others have the run's config for that.
"""


def with_tensors(
    checkpoint: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    return checkpoint | {
        "state_dict": {name: change(tensor) for name, tensor in checkpoint["state_dict"].items()}
    }


def with_settings(checkpoint: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return checkpoint | {"hyper_parameters": checkpoint["hyper_parameters"] | settings}


def nested(depth: int = 150) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("kind", thinned(CHANGES, 6))
def test_a_damaged_checkpoint_is_one_line(kind, handed, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(CHANGES[kind](torch.load(LAST, weights_only=True)), LAST)
    untied = torch.load(beside(), weights_only=True)
    torch.save({key: value for key, value in untied.items() if key != OF}, beside())
    start = time.process_time()
    for command in ("validate --ckpt_path run", "fit --ckpt_path run", "analyze run --null 5"):
        if (
            kind in ONLY_FIT
            and not command.startswith("fit")
            or kind in SETTINGS
            and "--ckpt_path" in command
        ):
            continue
        refused(capsys, command.split(), "run" if kind not in ONLY_FIT else "damaged")
    assert time.process_time() - start < 60  # it takes three: nothing of such a size is built


REST: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda r: [r],
    "no states": lambda r: r | {"optimizer_states": 3},
    "a states": lambda r: r | {"optimizer_states": [[1]]},
    "two": lambda r: r | {"optimizer_states": r["optimizer_states"] * 2},
    "none": lambda r: r | {"optimizer_states": []},
    "progress": lambda r: (
        r
        | {"loops": json.loads(json.dumps(r["loops"]).replace('"ready": ', '"ready": "x", "r": '))}
    ),
    "a look": lambda r: (
        r
        | {
            "callbacks": {
                name: {"looks": {6: {"a": []}}, "seconds": 1.0} for name in r["callbacks"]
            }
        }
    ),
    "loops": lambda r: r | {"loops": [1]},
    "a loop": lambda r: r | {"loops": {"fit_loop": {"epoch_progress": 3}}},
    "no loop": lambda r: r | {"loops": {}},
    "callbacks": lambda r: r | {"callbacks": [1]},
    "a callback": lambda r: r | {"callbacks": dict.fromkeys(r["callbacks"], 3)},
    "a callback's": lambda r: r | {"callbacks": dict.fromkeys(r["callbacks"], {"x": 1})},
    "schedules": lambda r: r | {"lr_schedulers": 3},
    "a schedule": lambda r: r | {"lr_schedulers": [3]},
    "moments": lambda r: with_moments(r, lambda t: t[..., :1]),
    "words": lambda r: with_moments(r, lambda t: "x"),
    "groups": lambda r: (
        r | {"optimizer_states": [r["optimizer_states"][0] | {"param_groups": [{"params": [0]}]}]}
    ),
    "NaN": lambda r: with_moments(r, lambda t: t * float("nan")),
    "of another": lambda r: r | {OF: "0" * 64},
}


def with_moments(rest: dict[str, Any], change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    (state,) = rest["optimizer_states"]
    changed = {
        i: {key: change(t) if key == "exp_avg" else t for key, t in moments.items()}
        for i, moments in state["state"].items()
    }
    return rest | {"optimizer_states": [state | {"state": changed}]}


@pytest.mark.parametrize("kind", thinned(REST, 6))
def test_a_damaged_resume_file_is_one_line(kind, handed, capsys):
    """Commands that only look do not read it, as a test above says."""
    torch.save(REST[kind](torch.load(beside(), weights_only=True)), beside())
    refused(capsys, ["fit", "--ckpt_path", "run", "--trainer.max_steps=8"], "run/checkpoints/last.")


def test_moments_of_another_run_are_not_taken(handed, small, capsys):
    """Nor of the same settings with another seed: the step is equal, the weights are not."""
    assert (
        main(
            [
                "fit",
                "--config",
                "dct_half.yaml",
                *small,
                "--name",
                "other",
                "--seed_everything",
                "1",
            ]
        )
        == 0
    )
    shutil.copy(Path("runs/other/version_0/checkpoints") / beside().name, beside())
    refused(
        capsys,
        ["fit", "--ckpt_path", "run", "--trainer.max_steps=8"],
        "belongs to another checkpoint",
    )


def test_a_run_goes_on_with_its_own_seed_alone(handed, capsys):
    refused(
        capsys,
        ["fit", "--ckpt_path", "run", "--seed_everything=3", "--trainer.max_steps=8"],
        "seed 0",
        "got 3",
    )


@pytest.mark.slow
def test_double_precision_goes_on_bit_for_bit(place, small):
    """Weights are loaded before Lightning makes the module double; here it is double before."""
    options = [*small, "--trainer.precision=64-true", "--trainer.val_check_interval=4"]
    assert (
        main(
            ["fit", "--config", "dct_half.yaml", *options, "--trainer.max_steps=8", "--name=whole"]
        )
        == 0
    )
    argv = [
        "fit",
        "--config",
        "dct_half.yaml",
        *options,
        "--trainer.max_steps=8",
        "--name=part",
        "--checkpoint.every_n_steps=5",
    ]
    saved = CheckpointFiles.save_checkpoint

    class Crash(Exception):
        pass

    def crash(self, checkpoint, path, storage_options=None):
        saved(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == 5:
            raise Crash

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(CheckpointFiles, "save_checkpoint", crash)
        main(argv)
    assert main(["fit", "--ckpt_path", "runs/part/version_0"]) == 0
    whole, part = (
        load(Path(f"runs/{name}/version_0/checkpoints/last.ckpt")) for name in ("whole", "part")
    )
    assert next(iter(whole["state_dict"].values())).dtype == torch.float64
    assert same(whole["state_dict"], part["state_dict"]) and same(
        whole["optimizer_states"], part["optimizer_states"]
    )


# ---- Archives and adapters -----------------------------------------------------------------------


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    torch.save(
        {
            "state_dict": {"a": torch.zeros(5_000_000)},
            "global_step": 0,
            "pytorch-lightning_version": "2",
        },
        tmp_path / "plain.ckpt",
    )
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.namelist():
            packed.writestr(record, plain.read(record))
    with pytest.raises(UserError, match="packed"):
        load(tmp_path / "packed.ckpt")


METADATA: dict[str, Any] = {
    "no json": "[",
    "deep": "[" * 100_000,
    "a list": "[]",
    "no shared": json.dumps({"masked": {}}),
    "shared": json.dumps({"shared": [1]}),
    "of nothing": json.dumps({"shared": {"a": "b"}}),
}


@pytest.mark.parametrize("kind", METADATA)
def test_a_damaged_adapter_is_one_line(kind, handed, capsys):
    tensors, metadata = read_tensors(Path(ADAPTER))
    save_file(tensors, ADAPTER, metadata | {"zoo": METADATA[kind]})
    for command in (
        "validate --ckpt_path {}",
        "generate --ckpt_path {}",
        "export {} --to dense --output out",
    ):
        refused(capsys, command.format(ADAPTER).split(), ADAPTER)


@pytest.fixture(scope="module")
def masked(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked adapter, which is whole."""
    out = tmp_path_factory.mktemp("masked") / "m"
    mask = [
        "mask",
        str(material / "run"),
        "--budgets",
        "10",
        "--order",
        "magnitude",
        "--out",
        str(out),
        "--save",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zoo"])
        assert main(mask) == 0
        (path,) = (out / "masked").iterdir()
        assert main(["validate", "--ckpt_path", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [100_000, 100_000]},
        {"shape": [-4, -4]},
        {"shape": [16, "x"]},
        {"shape": [48, 17]},
        {"shape": [48.0, 16]},
        {"transform": "os.system"},
        {"transform": ["dct"]},
        {"encoding": "none"},
        {"encoding": "prefix"},
        {"shape": None},
    ],
    ids=str,
)
def test_a_masked_matrix_has_its_layers_shape(change, masked, place, capsys):
    path = Path(shutil.copy(masked, "masked.safetensors"))
    tensors, metadata = read_tensors(path)
    about = json.loads(metadata["zoo"])
    name = next(iter(about["masked"]))
    about["masked"][name] |= change
    save_file(tensors, path, metadata | {"zoo": json.dumps(about)})
    for command in ("validate --ckpt_path {}", "generate --ckpt_path {}", "analyze {} --null 5"):
        refused(capsys, command.format(path).split())


# ---- Configs, names and links --------------------------------------------------------------------

CONFIGS: dict[str, Any] = {
    "a list": [1],
    "a model": {"model": [1]},
    "data": {"data": "x"},
    "a trainer": {"trainer": [1]},
    "a task": {"model": {"class_path": "tasks.CharData"}},
    "no arguments": {"model": {"class_path": "tasks.CharLM", "init_args": 3}},
    "dots": {"model": {"class_path": "tasks.CharLM", "init_args": {"a.b": 3}}},
    "layers": {"model": {"class_path": "tasks.CharLM", "init_args": {"layers": 1_000_000}}},
    "a list for a number": {"model": {"class_path": "tasks.CharLM", "init_args": {"width": [1]}}},
    "a huge number": {"seed_everything": 10**30},
    "a number in words": {"trainer": {"devices": "99999"}},
    "many": {"trainer": {"devices": ["0"] * 5000}},
    "none": {"trainer": {"devices": -5}},
    "an accelerator": {"trainer": {"accelerator": "tpu"}},
    "no number": {"checkpoint": {"every_n_steps": None}},
    "words for a list": {
        "model": {"class_path": "tasks.CharLM", "init_args": {"targets": "/etc/hostname"}}
    },
}


@pytest.mark.parametrize("kind", thinned(CONFIGS, 3))
def test_a_damaged_config_is_one_line(kind, handed, capsys):
    path = Path("run/config.yaml")
    whole = yaml.safe_load(path.read_text())
    change = CONFIGS[kind]
    path.write_text(yaml.safe_dump(change if isinstance(change, list) else whole | change))
    of_fit = (
        {"trainer", "checkpoint"} >= set(change)
        and isinstance(change, dict)
        and kind != "a trainer"
    )
    for command in ("validate --ckpt_path run", "fit --ckpt_path run", "mask run --budgets 50"):
        if not of_fit or command.startswith("fit"):
            refused(capsys, command.split())


@pytest.mark.parametrize(
    "text",
    [
        "Option 'a' is not accepted class_path='stranger.B'",
        "Option 'x' is not accepted class_path='stranger.a b'",
        "Problem with given class_path 'stranger.a b': Option 'x' is not accepted",
        "val='stranger.B'",
    ],
)
@pytest.mark.parametrize("key", ["selection", "name", "width", "precision", "corpus"])
def test_what_a_message_repeats_of_a_file_is_not_imported(key, text, handed, capsys):
    """jsonargparse names no class that it could not import: zoo tries those in its message, but
    none of a file's.
    """
    Path("stranger.py").write_text("open('OWNED', 'w')")
    path = Path("run/config.yaml")
    config = yaml.safe_load(path.read_text())
    model = config["model"]["init_args"]
    place = {
        "selection": model["parameterization"]["init_args"],
        "name": model["optimizer"],
        "width": model,
        "precision": config["trainer"],
        "corpus": config["data"]["init_args"],
    }[key]
    place[key] = text
    path.write_text(yaml.safe_dump(config))
    for command in ("validate", "fit"):
        if (command, key) != ("validate", "precision"):
            refused(capsys, [command, "--ckpt_path", "run"])
    assert not Path("OWNED").exists()


@pytest.mark.parametrize("name", ["..", ".", "x" * 300, "a\nb", "a/b", "\x1b[31mred", "é" * 150])
def test_a_name_is_that_of_a_folder(name, place, small, capsys):
    refused(capsys, ["fit", "--config", "dct_half.yaml", *small, "--name", name], "--name")


@pytest.mark.parametrize("link", thinned(["last.ckpt", "checkpoints"], "checkpoints".__eq__))
def test_a_checkpoint_on_another_disk_keeps_its_run(link, handed):
    Path("scratch").mkdir()
    there = Path("scratch") / link
    here = LAST if link == "last.ckpt" else LAST.parent
    here.rename(there)
    here.symlink_to(os.path.abspath(there))
    for path in ("run", str(LAST), os.path.abspath(LAST)):
        assert checkpoints.run_folder(checkpoints.resolve(path)).name == "run"
        assert main(["validate", "--ckpt_path", path]) == 0
    assert main(["fit", "--ckpt_path", "run", "--trainer.max_steps=8"]) == 0
    assert here.is_symlink() == (link == "checkpoints") and load(LAST)["global_step"] == 8


def test_a_run_leads_nowhere_else(handed, capsys):
    """Links in a run that was handed over are replaced, and lead no logger out of it."""
    Path("mine").write_text("mine")
    Path("outside").mkdir()
    Path("run/summary.json").unlink()
    Path("run/summary.json").symlink_to(os.path.abspath("mine"))
    Path("run/link").symlink_to(os.path.abspath("outside"))
    assert main(["fit", "--ckpt_path", "run", "--trainer.max_steps=8"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": os.path.abspath("run/link")},
    }
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    refused(capsys, ["fit", "--ckpt_path", "run", "--trainer.max_steps=10"], "leads out of the run")
    config["trainer"]["logger"] = None
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    Path("run/.lock").symlink_to(os.path.abspath("mine"))
    refused(capsys, ["fit", "--ckpt_path", "run", "--trainer.max_steps=10"], ".lock")
    assert Path("mine").read_text() == "mine" and not list(Path("outside").iterdir())


@pytest.mark.slow
def test_few_numbers_stand_for_no_huge_matrices(place, capsys):
    """Such as half a megabyte whose network would take gigabytes, and minutes for a word."""
    net = CharLM(
        "ab", functools.partial(DCT, coefficients=1), block_size=1, layers=1, width=2200, heads=1
    )
    Path("run/checkpoints").mkdir(parents=True)
    torch.save(checkpoints.snapshot(net), LAST)
    refused(
        capsys,
        ["generate", "--ckpt_path", "run", "--prompt", "a", "--length", "2"],
        "numbers for",
        "weights",
    )


def test_a_link_to_a_checkpoint_finds_its_run(handed):
    Path("mine.ckpt").symlink_to(LAST)
    assert main(["validate", "--ckpt_path", "mine.ckpt"]) == 0
