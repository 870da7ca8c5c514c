"""Strangers' files: each is analysed or left out with a reason, and ends nothing."""

import json
import os
import shutil

import pytest
import strangers
import torch
from safetensors.torch import save_file

from zoo.api import hub
from zoo.studies.census import measuring, precheck, worker
from zoo.studies.census.entries import Entry
from zoo.studies.census.running import before_reading, job_of
from zoo.studies.census.summary import mark_copies

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
A, B = (f"{strangers.PREFIX}{strangers.QUERY.format(0)}.lora_{part}.weight" for part in "AB")


def became(what, **more):
    """What an adapter comes to, as in a process of its own: a status and why, or what was found."""
    entry = Entry(str(what), "it", **more)
    left = before_reading(entry)
    job = {**job_of(entry, ["dct", "haar"], 5, 0), "memory": 4}
    result = worker.outcome(job) if left is None else left._asdict()
    assert "\n" not in result.get("why", "")
    json.dumps(result, allow_nan=False)
    return result


def status(what, **more):
    return became(what, **more)["status"]


# ---- Before anything is read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("{}", 2**40, "unreadable"),
        ("{}", 100, "unreadable"),
        ("{", None, "unreadable"),
        ("5", None, "unreadable"),
        ('"abc"', None, "unreadable"),
        ("[1, 2]", None, "unreadable"),
        ("[" * 50_000, None, "unreadable"),
        ('{"a": 1, "a": 2}', None, "unreadable"),
        (json.dumps({"a": {**F32, "shape": [10**6]}}), None, "unreadable"),
        (json.dumps({"a": {**F32, "shape": [-1]}}), None, "unreadable"),
        (json.dumps({"a": {**F32, "data_offsets": [0, 2**60]}}), None, "unreadable"),
        (json.dumps({"a": {**F32, "data_offsets": [4, 0]}}), None, "unreadable"),
        (" " * (precheck.LARGEST_HEADER + 1), None, "too large"),
    ],
)
def test_a_safetensors_header(tmp_path, text, length, expected):
    assert status(strangers.header(tmp_path / "a", text, length, bytes(4))) == expected


def test_what_the_first_bytes_say(tmp_path):
    """Nothing is read of what is known to be none."""
    folder = strangers.many_tensors(tmp_path / "many")
    assert "100,000 tensors" in precheck.left_out(str(folder)).why
    assert precheck.left_out(str(strangers.pointer(tmp_path / "pointer"))).status == "pointer"
    large = strangers.config(tmp_path / "large") / "adapter_model.bin"
    with large.open("wb") as file:
        file.truncate(precheck.LARGEST + 1)  # of which the disk holds nothing
    assert precheck.left_out(str(large.parent)).status == "too large"
    assert precheck.left_out(str(strangers.peft(tmp_path / "fine"))) is None


def test_as_many_matrices_as_are_let_in_are_within_json_bounds(tmp_path):
    """A result is read back within bounds of `zoo.files.plain`, from the journal too."""
    from zoo.bases import TRANSFORMS
    from zoo.files.plain import MOST

    def values(data):
        inside = data.values() if isinstance(data, dict) else data if type(data) is list else ()
        return 1 + sum(map(values, inside))

    counts = []
    for layers in (1, 3):
        folder = strangers.peft(tmp_path / str(layers), strangers.factors(layers))
        found = measuring.measured(Entry(str(folder), "it"), list(TRANSFORMS), 5, 0)
        counts.append(values(found))
    each = (counts[1] - counts[0]) / 2
    assert counts[0] + each * precheck.MOST_TENSORS < MOST


def test_what_is_no_file(tmp_path):
    for name in ("empty", "picture", "pipes"):
        (tmp_path / name).mkdir()
    (tmp_path / "picture" / "a.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipes" / "adapter_model.safetensors")
    os.mkfifo(tmp_path / "pipe.bin")
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("loop", tmp_path / "loop")
    found = {path.name: status(path) for path in sorted(tmp_path.iterdir())}
    assert found == {
        "dangling": "not found",
        "empty": "no adapter",
        "loop": "not found",
        "picture": "no adapter",
        "pipe.bin": "unreadable",
        "pipes": "no adapter",
    }


def test_a_link_that_leads_nowhere_beside_the_tensors(tmp_path):
    folder = strangers.peft(tmp_path / "a")
    os.symlink("nowhere", folder / "training_args.bin")
    assert status(folder) == "analysed"


# ---- Reading -------------------------------------------------------------------------------------


def test_code_in_a_pickle_is_not_executed(tmp_path):
    made = tmp_path / "made"
    result = became(strangers.pickled(tmp_path / "a", made))
    assert result["status"] == "unreadable" and "holds code" in result["why"]
    torch.save({"x.lora_A": strangers.Evil(made)}, tmp_path / "lib.bin")
    assert status(tmp_path / "lib.bin") == "unreadable"
    assert not made.exists()
    torch.load(tmp_path / "lib.bin", weights_only=False)
    assert made.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"x" * 100, b"\x80\x02}."])
def test_a_file_that_is_none_of_torchs(tmp_path, content):
    (tmp_path / "a.bin").write_bytes(content)
    assert status(tmp_path / "a.bin") == "unreadable"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t[A].__setitem__((0, 0), float("nan")), "NaN"),
        (lambda t: t[B].fill_(float("inf")), "NaN or infinite"),
        (lambda t: [x.fill_(1e25) for x in t.values()], "norm of"),
        (lambda t: [x.zero_() for x in t.values()], "dW is 0"),
        (lambda t: t.update({A: torch.zeros(0, 20), B: torch.zeros(24, 0)}), "damaged"),
        (lambda t: t.update({B: torch.ones(24, 3)}), "damaged"),
        (lambda t: t.update({A: torch.ones(4)}), "damaged"),
        (lambda t: t.update({A: torch.ones(4, 20, dtype=torch.int32)}), "damaged"),
        (lambda t: t.pop(A), "damaged"),
        (lambda t: t.clear(), "no layers"),
    ],
    ids=[
        "nan",
        "inf",
        "huge",
        "zero",
        "rank-0",
        "other-ranks",
        "vector",
        "integers",
        "half-of-it",
        "nothing",
    ],
)
def test_damaged_factors(tmp_path, change, word):
    tensors = strangers.factors()
    change(tensors)
    result = became(strangers.peft(tmp_path / "a", tensors))
    assert result["status"] == "unreadable" and word in result["why"], result


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lora_alpha": "x"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"peft_type": "../x"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ],
)
def test_a_config_that_is_none(tmp_path, settings, word):
    result = became(strangers.peft(tmp_path / "a", **settings))
    assert result["status"] == "unreadable" and word in result["why"], result


def test_what_else_is_missing(tmp_path):
    no_tensors = strangers.config(tmp_path / "no-tensors")
    no_config = strangers.peft(tmp_path / "no-config")
    (no_config / "adapter_config.json").unlink()
    damaged = strangers.peft(tmp_path / "damaged")
    (damaged / "adapter_config.json").write_text("{" * 1000)
    assert [status(path) for path in (no_tensors, no_config, damaged)] == ["unreadable"] * 3
    assert status(strangers.loralib(tmp_path / "rank-0.pt", rank=0)) == "unreadable"


@pytest.mark.parametrize(
    ("out", "into", "rank"),
    [(1, 1, 1), (1, 40, 1), (40, 1, 1), (31, 17, 3), (6, 7, 20), (6, 6, 6), (2, 3, 1)],
)
def test_shapes_and_a_rank_above_the_sides(tmp_path, out, into, rank):
    folder = strangers.peft(tmp_path / "a", strangers.factors(2, out, into, rank), rank)
    found = became(folder)
    assert found["status"] == "analysed"
    assert [m["shape"] for m in found["matrices"]] == [[out, into]] * 2
    assert all(1 <= m["numerical_rank"] <= min(out, into, rank) for m in found["matrices"])
    assert all(0 <= row["p"] <= 1 for row in found["planted"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_numbers(tmp_path, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in strangers.factors().items()}
    assert status(strangers.peft(tmp_path / "a", tensors)) == "analysed"


def test_patterns_of_rank_and_alpha(tmp_path):
    """Norms are alpha / r |B A| of each layer's own."""
    second = {key.replace(".0.", ".1."): v for key, v in strangers.factors(1, rank=2).items()}
    tensors = strangers.factors(1) | second
    patterns = {"rank_pattern": {"layer.1.*": 2}, "alpha_pattern": {"layer.1.*": 32}}
    found = became(strangers.peft(tmp_path / "a", tensors, **patterns))
    assert [m["numerical_rank"] for m in found["matrices"]] == [4, 2]
    wanted = [(2, tensors[B] @ tensors[A])]
    wanted.append((16, tensors[B.replace(".0.", ".1.")] @ tensors[A.replace(".0.", ".1.")]))
    norms = [scale * float(product.norm()) for scale, product in wanted]
    assert [m["norm"] for m in found["matrices"]] == pytest.approx(norms, rel=1e-5)


# ---- Copies, pairs and a hub ---------------------------------------------------------------------


def test_copies_are_known_by_their_tensors(tmp_path):
    """Whatever lies beside them, and whatever both are called."""
    first = strangers.peft(tmp_path / "a")
    copy = strangers.peft(tmp_path / "b", lora_alpha=32)
    (copy / "training_args.bin").write_bytes(b"other")
    other = strangers.peft(tmp_path / "c", seed=1)
    made = [
        {"entry": {"name": "same"}, "status": "analysed", "sha256": became(path)["sha256"]}
        for path in (first, copy, other)
    ]
    mark_copies(made)
    assert [each["status"] for each in made] == ["analysed", "duplicate", "analysed"]
    assert made[1]["why"] == "the same tensors as same"


def test_a_pair_is_both_of_its_checkpoints(tmp_path):
    for i in range(3):
        (tmp_path / f"c{i}").mkdir()
        save_file({"l.0.query.weight": torch.randn(12, 10)}, tmp_path / f"c{i}/model.safetensors")
    c0, c1, c2 = (str(tmp_path / f"c{i}") for i in range(3))
    one, other = (became(c1, before=before) for before in (c0, c2))
    assert (one["facts"], one["status"]) == ({"format": "pair"}, "analysed")
    assert one["sha256"] != other["sha256"] and one["matrices"] != other["matrices"]
    assert status(c1, before=c1) == "unreadable"
    assert status(c1, before="nowhere") == "unreadable"


def test_runs_that_are_read_from_checkpoints_are_no_copies(char, tuned):
    assert became(char)["sha256"] != became(tuned)["sha256"]


SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for huggingface_hub: repositories are folders."""

    def __init__(self, root):
        self.root, self.asked = root, []

    def HfApi(self):  # noqa: N802
        return self

    def model_info(self, repository, revision=None, files_metadata=False):
        from types import SimpleNamespace

        self.asked.append(revision)
        files = sorted((self.root / repository).iterdir())
        siblings = [SimpleNamespace(rfilename=f.name, size=f.stat().st_size) for f in files]
        return SimpleNamespace(sha=SHA, siblings=siblings)

    def hf_hub_download(self, repository, file, revision=None):
        assert revision == SHA
        return str(self.root / repository / file)


def test_a_hub(tmp_path, monkeypatch):
    there = Hub(tmp_path)
    monkeypatch.setattr(hub, "_library", lambda: there)
    strangers.peft(tmp_path / "me/peft"), strangers.peft_binary(tmp_path / "me/binary", seed=1)
    strangers.own(tmp_path / "me/own")
    (tmp_path / "me/none").mkdir()
    shutil.copy(__file__, tmp_path / "me/none/adapter.py")
    strangers.pointer(tmp_path / "me/pointer"), strangers.many_tensors(tmp_path / "me/many")
    found = {name: became(f"me/{name}") for name in sorted(os.listdir(tmp_path / "me"))}
    assert {name: result["status"] for name, result in found.items()} == {
        "binary": "analysed",
        "many": "too large",
        "none": "unreadable",
        "own": "analysed",
        "peft": "analysed",
        "pointer": "pointer",
    }
    assert "holds no adapter" in found["none"]["why"]
    assert status("me/peft", about={"commit": "main"}) == "analysed"
    assert there.asked[-1] == "main"
    assert status("me/gone") == "unreadable"
