"""The guide's table from peft to zoo, run line by line: both sides do the same."""

import re
from pathlib import Path

import pytest
import torch

import zoo
from zoo.layers.convert import zoo_layers

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what peft calls in transformers
GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def rows():
    section = GUIDE.read_text().partition("### From peft to zoo")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(.+)` \| `(.+)` \|$", section, re.MULTILINE)
    assert len(found) > 10
    return found


@torch.no_grad()
def drawn_alike(theirs, mine, name):
    """Give both the same factors, as training would have."""
    layers = zoo_layers(mine)
    for key, p in theirs.named_parameters():
        match = re.fullmatch(rf"base_model\.model\.(.+)\.(lora_[AB])\.{name}\.weight", key)
        if match:
            space = layers[match[1]].parameterization
            own = space.of(name) if hasattr(space, "of") else space
            p.normal_()
            own.get_parameter(match[2]).copy_(p)


def test_every_line_of_the_table_does_what_it_stands_beside(backbones, tmp_path, capsys):
    def fresh():
        return transformers.AutoModelForCausalLM.from_pretrained(backbones("llama")).eval()

    x = {"input_ids": torch.arange(3, 21).view(3, 6)}
    theirs = {
        **vars(peft),
        "base": fresh(),
        "folder": str(tmp_path / "peft"),
        "x": x,
    }
    mine = {"zoo": zoo, "base": fresh(), "folder": str(tmp_path / "zoo"), "x": x}
    printed = {}
    for before, after in rows():
        for names, line in ((theirs, before), (mine, after)):
            if "from_pretrained" in line or "zoo.load" in line:
                names["base"] = fresh()
            names.pop("y", None)
            capsys.readouterr()
            with torch.no_grad():
                exec(line, names)
            printed[line] = capsys.readouterr().out
        for name in ("fr", "law"):
            if name in before and ("get_peft_model" in before or "add_adapter" in before):
                drawn_alike(theirs["model"], mine["model"], name)
        outputs = []
        for names in (theirs, mine):
            with torch.no_grad():
                y = names.get("y", None)
                outputs.append((y if y is not None else names["model"].eval()(**x)).logits)
        assert torch.allclose(*outputs, atol=1e-4), (before, after)
        if "print" in before:
            numbers = [re.findall(r"\d[\d,]*", printed[line]) for line in (before, after)]
            assert numbers[0][0] in numbers[1], printed
    assert not zoo_layers(mine["model"]) and type(theirs["model"]) is type(mine["model"])
