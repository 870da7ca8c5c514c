"""An adapter's folder, and a hub's: the damaged, foreign and too large are refused in one line."""

import json
import re
import shutil
import types

import pytest
import torch
from networks import assert_same, state_of
from torch import nn

import zoo
from zoo.api import hub
from zoo.api.card import escaped
from zoo.files.tensors import read_tensors, write_tensors
from zoo.layers.convert import zoo_layers
from zoo.runs.adapter_config import CONFIG

TENSORS = "adapter.safetensors"


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


def adapted(cls=zoo.DCT, **settings):
    net = zoo.adapt(made(), cls, targets="0", train="2", **settings or {"ratio": 0.5})
    with torch.no_grad():
        for p in zoo.trainable(net).values():
            p.normal_()
    return net


@pytest.fixture
def folder(tmp_path):
    return zoo.save(adapted(), tmp_path / "adapter", data="toy")


def config(folder, change):
    values = json.loads((folder / CONFIG).read_text())
    change(values)
    (folder / CONFIG).write_text(json.dumps(values))


def tensors(folder, change):
    values = read_tensors(folder / TENSORS)[0]
    change(values)
    write_tensors(folder / TENSORS, values)


COEF = "0.parameterization.coef"
DAMAGE = {
    "no tensors": lambda f: (f / TENSORS).unlink(),
    "truncated": lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]),
    "no json": lambda f: (f / CONFIG).write_text("{"),
    "a list": lambda f: (f / CONFIG).write_text("[]"),
    "huge json": lambda f: (f / CONFIG).write_text("[" * 100_000),
    "later format": lambda f: config(f, lambda c: c.update(format=2)),
    "format": lambda f: config(f, lambda c: c.update(format="1")),
    "no maps": lambda f: config(f, lambda c: c.pop("maps")),
    "no layers": lambda f: config(f, lambda c: c["maps"][0].update(layers=[])),
    "map": lambda f: config(f, lambda c: c.update(maps=["DCT"])),
    "shape": lambda f: config(f, lambda c: c["maps"][0].update(layers={"0": [6]})),
    "other shape": lambda f: config(f, lambda c: c["maps"][0].update(layers={"0": [6, 7]})),
    "huge shape": lambda f: config(f, lambda c: c["maps"][0].update(layers={"0": [2**30, 2**30]})),
    "twice": lambda f: config(f, lambda c: c["maps"].append(c["maps"][0])),
    "scale": lambda f: config(f, lambda c: c["maps"][0].update(scale=float("nan"))),
    "huge scale": lambda f: config(f, lambda c: c["maps"][0].update(scale=10**400)),
    "long class": lambda f: config(f, lambda c: c["maps"][0].update(class_path="a." + "b" * 9999)),
    "deep": lambda f: (f / CONFIG).write_text('{"a":' * 10_000 + "1" + "}" * 10_000),
    "long range": lambda f: config(f, lambda c: c["maps"][0].update(layers={"0": [2**25, 6]})),
    "fingerprint": lambda f: config(f, lambda c: c.update(fingerprints={"0": "a\nb"})),
    "fingerprints": lambda f: config(f, lambda c: c.update(fingerprints={"0": ["a"]})),
    "long print": lambda f: config(f, lambda c: c.update(fingerprints={"0": "a\n" * 9999})),
    "metrics": lambda f: config(f, lambda c: c.update(metrics={"accuracy": "high"})),
    "huge metric": lambda f: config(f, lambda c: c.update(metrics={"accuracy": 10**400})),
    "data": lambda f: config(f, lambda c: c.update(data=["toy"])),
    "source": lambda f: config(f, lambda c: c.update(source={})),
    "zero": lambda f: config(f, lambda c: c["maps"][0].update(scale=0)),
    "class": lambda f: config(f, lambda c: c["maps"][0].update(class_path="os.system")),
    "no class": lambda f: config(f, lambda c: c["maps"][0].update(class_path=7)),
    "no such": lambda f: config(
        f, lambda c: c["maps"][0].update(class_path="zoo.parameterizations.X")
    ),
    "abstract": lambda f: config(
        f, lambda c: c["maps"][0].update(class_path="zoo.parameterizations.OfBase")
    ),
    "argument": lambda f: config(f, lambda c: c["maps"][0]["init_args"].update(nothing=1)),
    "value": lambda f: config(f, lambda c: c["maps"][0]["init_args"].update(ratio="x")),
    "nested": lambda f: config(
        f, lambda c: c["maps"][0]["init_args"].update(selection={"class_path": "os.system"})
    ),
    "other ratio": lambda f: config(f, lambda c: c["maps"][0]["init_args"].update(ratio=0.25)),
    "other basis": lambda f: config(f, lambda c: c["maps"][0]["init_args"].update(seed=3)),
    "other layer": lambda f: config(f, lambda c: c["maps"][0].update(layers={"1": [6, 6]})),
    "undeclared": lambda f: config(f, lambda c: c["trained"].remove("2.bias")),
    "missing": lambda f: config(f, lambda c: c["trained"].append("0.bias")),
    "start": lambda f: config(f, lambda c: c.update(start="nothing")),
    "smuggled": lambda f: tensors(f, lambda t: t.update({"0.weight": torch.zeros(6, 6)})),
    "no coef": lambda f: tensors(f, lambda t: t.pop(COEF)),
    "longer coef": lambda f: tensors(f, lambda t: t.update({COEF: torch.zeros(19)})),
    "whole numbers": lambda f: tensors(f, lambda t: t.update({COEF: torch.zeros(18).int()})),
    "float8": lambda f: tensors(
        f, lambda t: t.update({COEF: torch.zeros(18).to(torch.float8_e4m3fn)})
    ),
    "complex": lambda f: tensors(f, lambda t: t.update({"2.bias": torch.zeros(4).cfloat()})),
    "whole head": lambda f: tensors(f, lambda t: t.update({"2.bias": torch.zeros(4).long()})),
    "lines": lambda f: tensors(f, lambda t: t.update({"a\nb" * 9999: torch.zeros(4)})),
    "more digits": lambda f: tensors(f, lambda t: t.update({COEF: torch.zeros(18).double()})),
    "a head's digits": lambda f: tensors(
        f, lambda t: t.update({"2.bias": torch.zeros(4).double()})
    ),
    "nan": lambda f: tensors(f, lambda t: t.update({COEF: torch.full((18,), torch.nan)})),
    "other head": lambda f: tensors(f, lambda t: t.update({"2.bias": torch.zeros(5)})),
    "trained base": lambda f: (
        config(f, lambda c: c["trained"].append("0.weight")),
        tensors(f, lambda t: t.update({"0.weight": torch.zeros(6, 6)})),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_refused_and_the_network_stays(damage, folder):
    DAMAGE[damage](folder)
    net = made()
    assert_refused(net, folder)
    assert str(net) == str(made()) and not zoo_layers(net)


def assert_refused(net, folder):
    before = state_of(net)
    with pytest.raises(zoo.UserError) as error:
        zoo.load(net, folder, name="new")
    assert "\n" not in str(error.value) and len(str(error.value)) < 5000, error.value
    assert_same(before, state_of(net))


UNFIT = {
    "basis": lambda f: config(f, lambda c: c.update(fingerprints={"0": "abc"})),
    "digits": lambda f: tensors(f, lambda t: t.update({COEF: torch.zeros(18).double()})),
    "besides": lambda f: tensors(f, lambda t: t.update({"2.bias": torch.zeros(4).double()})),
}


@pytest.mark.parametrize("fault", UNFIT)
@pytest.mark.parametrize("start", ["update", "scratch", "second"])
def test_what_does_not_fit_is_found_before_anything_changes(fault, start, tmp_path):
    net = zoo.parameterize(made(), zoo.DCT, ratio=0.5, targets="0")
    folder = zoo.save(net if start == "scratch" else adapted(), tmp_path / "a")
    UNFIT[fault](folder)
    net = made() if start != "second" else zoo.adapt(made(), zoo.LoRA, rank=1, targets="0")
    assert_refused(net, folder)


def test_what_is_trained_besides_is_no_other_adapters(tmp_path):
    folder = zoo.save(adapted(), tmp_path / "a")
    name = "2.parameterization.lora_A"
    config(folder, lambda c: c["trained"].append(name))
    tensors(folder, lambda t: t.update({name: torch.zeros(1, 6)}))
    assert_refused(zoo.adapt(made(), zoo.LoRA, rank=1, targets="2"), folder)


def test_folders_of_others_are_refused_by_what_they_are(tmp_path):
    for name, said in (("peft", "peft adapter"), ("run", "is a run"), ("nothing", "no adapter")):
        folder = tmp_path / name
        folder.mkdir()
        if name == "peft":
            (folder / "adapter_config.json").write_text("{}")
        if name == "run":
            (folder / "checkpoints").mkdir()
        with pytest.raises(zoo.UserError, match=said):
            zoo.load(made(), folder)


def test_nothing_is_overwritten_unless_it_is_said(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = adapted(zoo.LoRA, rank=1)
    with pytest.raises(zoo.UserError, match="overwrite=True"):
        zoo.save(other, folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    zoo.save(other, folder, overwrite=True)
    assert "LoRA" in (folder / CONFIG).read_text()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(zoo.UserError, match="mine.txt"):
        zoo.save(other, folder, overwrite=True)


def test_bytes_are_four_a_number_and_no_more_than_64_kib(folder):
    numbers = sum(p.numel() for p in zoo.trainable(adapted()).values())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4 * numbers + 2**16


def test_two_savings_are_equal_byte_for_byte(tmp_path):
    a, b = (zoo.save(adapted(), tmp_path / name) for name in "ab")
    assert all((b / file.name).read_bytes() == file.read_bytes() for file in a.iterdir())


def test_nested_maps_come_back(tmp_path):
    import functools

    parts = [functools.partial(zoo.LoRA, rank=1), zoo.Sparse]
    net = adapted(zoo.Sum, parts=parts, ratio=0.5)
    other = zoo.load(made(), zoo.save(net, tmp_path / "a"))
    x = torch.ones(2, 6)
    assert torch.allclose(other(x), net(x), atol=1e-6)


def test_a_setting_that_is_no_data_is_refused_when_it_is_saved(tmp_path):
    net = zoo.adapt(made(), lambda m, n: zoo.LoRA(m, n, rank=2), targets="0")
    with pytest.raises(zoo.UserError, match="a class and its settings"):
        zoo.save(net, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


# ---- The card ------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_and_shows_texts_as_they_are(tmp_path):
    evil = "<script>alert(1)</script> [x](http://y) |\n# title `code` ![](z)"
    folder = zoo.save(adapted(), tmp_path / "a", data=evil, metrics={"<b>acc": 0.91234})
    text = (folder / "README.md").read_text()
    assert "DCT" in text and "0.9123" in text and "18 of 36" in text
    assert "<script" not in text and "<b>" not in text and "](" not in text
    assert "\n# title" not in text
    row = next(line for line in text.splitlines() if line.startswith("| Data"))
    assert re.sub(r"\\\|", "", row).count("|") == 3
    assert str(tmp_path) not in text + (folder / CONFIG).read_text()


def test_what_was_loaded_is_saved_with_where_it_comes_from_and_what_it_reached(tmp_path):
    folder = zoo.save(adapted(), tmp_path / "a", data="toy", metrics={"accuracy": 0.9})
    known = {"base": {"class": "Sequential", "name_or_path": "me/base"}, "source": f"me/b at {SHA}"}
    config(folder, lambda c: c.update(known))
    known |= {"data": "toy", "metrics": {"accuracy": 0.9}}

    def saved(name, trainable=False, **more):
        net = zoo.load(made(), folder, trainable=trainable)
        again = zoo.save(net, tmp_path / name, **more)
        said = json.loads((again / CONFIG).read_text())
        return {key: said.get(key) for key in known}, (again / "README.md").read_text()

    said, text = saved("b")
    assert said == known
    assert all(word in text for word in ("me/base", f"me/b at {SHA}", "toy", "| accuracy | 0.9 |"))
    assert saved("c", data="more", metrics={})[0] == known | {"data": "more", "metrics": None}
    trained, text = saved("d", trainable=True)
    assert trained == known | {"metrics": None} and "accuracy" not in text
    config(folder, lambda c: c.update(source="/home/me"))
    assert saved("e")[0]["source"] is None


def test_escaped_text_is_one_line():
    assert escaped("a\nb") == "a b" and escaped("*x*") == r"\*x\*"


# ---- A hub ---------------------------------------------------------------------------------------

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for huggingface_hub: repositories are folders, and what was asked for is noted."""

    def __init__(self, root, sizes=None):
        self.root, self.sizes, self.asked, self.fails = root, sizes or {}, [], None

    def HfApi(self):
        return self

    def model_info(self, repository, revision=None, files_metadata=False):
        assert files_metadata
        if self.fails:
            raise self.fails
        folder = self.root / repository
        files = [
            types.SimpleNamespace(rfilename=f.name, size=self.sizes.get(f.name, f.stat().st_size))
            for f in sorted(folder.iterdir())
        ]
        self.asked.append(("info", revision))
        return types.SimpleNamespace(sha=SHA, siblings=files)

    def hf_hub_download(self, repository, file, revision=None):
        self.asked.append((file, revision))
        return str(self.root / repository / file)

    def create_repo(self, repository, private, exist_ok):
        self.asked.append(("create", private))
        (self.root / repository).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, repo_id, folder_path, revision, commit_message):
        if self.fails:
            raise self.fails
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return types.SimpleNamespace(oid=SHA)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    there = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub, "_library", lambda: there)
    monkeypatch.chdir(tmp_path)
    return there


def test_pushed_and_loaded_at_the_commit_that_was_looked_at(stand_in):
    net = adapted()
    assert zoo.push(net, "me/mine", data="toy") == SHA
    assert ("create", True) in stand_in.asked
    (stand_in.root / "me/mine" / "evil.py").write_text("raise SystemExit")
    other = zoo.load(made(), "me/mine", revision="main")
    x = torch.ones(2, 6)
    assert torch.equal(other(x), net(x))
    downloads = [ask for ask in stand_in.asked if ask[0] not in ("info", "create")]
    assert downloads == [(CONFIG, SHA), (TENSORS, SHA)]
    assert ("info", "main") in stand_in.asked
    again = zoo.save(other, "again")
    assert json.loads((again / CONFIG).read_text())["source"] == f"me/mine at {SHA}"
    assert f"me/mine at {SHA}" in (again / "README.md").read_text()


def test_what_is_too_large_is_not_downloaded(stand_in):
    zoo.push(adapted(), "me/mine")
    for sizes in ({TENSORS: 2**40}, {CONFIG: 2**30}, {TENSORS: None}):
        stand_in.sizes, stand_in.asked = sizes, []
        with pytest.raises(zoo.UserError, match="bytes"):
            zoo.load(made(), "me/mine")
        assert [ask[0] for ask in stand_in.asked] == ["info"]


def test_no_token_is_in_a_message_or_a_file(stand_in, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-secret")
    stand_in.fails = RuntimeError("401 for hf_abcdef with my-secret, Bearer xyz\nmore")
    for call in (lambda: zoo.push(adapted(), "me/mine"), lambda: zoo.load(made(), "me/mine")):
        with pytest.raises(zoo.UserError) as error:
            call()
        assert not re.search("hf_abcdef|my-secret|xyz|more", str(error.value))
    stand_in.fails = None
    zoo.push(adapted(), "me/mine")
    assert all("my-secret" not in f.read_text(errors="ignore") for f in stand_in.root.rglob("*.*"))


def test_a_repository_without_an_adapter_and_a_name_that_is_none(stand_in):
    (stand_in.root / "me" / "other").mkdir(parents=True)
    with pytest.raises(zoo.UserError, match="holds no adapter"):
        zoo.load(made(), "me/other")
    for name in ("mine", "../x/y", "a/b/c", "https://hub/x"):
        with pytest.raises(zoo.UserError):
            zoo.push(adapted(), name)
        with pytest.raises(zoo.UserError):
            zoo.load(made(), name)
    assert stand_in.asked == [("info", None)]
