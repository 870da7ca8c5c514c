"""Every command that README and docs show runs, shortened by options that stand here; their links
lead somewhere.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import tuning
from every import thinned

from zoo.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]
COMMANDS = list(
    dict.fromkeys(
        line.partition("  #")[0].strip()
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith("    zoo ")
    )
)
TINY = {
    "data.batch_size": 4,
    "data.block_size": 16,
    "model.width": 16,
    "model.heads": 2,
    "model.layers": 2,
    "trainer.max_steps": 4,
    "trainer.precision": "32-true",
}
SHORT = {
    "coordinates": "--parameterization DCT --widths 32,64 --depths 1 --steps 1 --sizes 16 "
    "--data.corpus my_text.txt",
    "bench": "--shape 32x32 --tokens 2 --seconds 0.01",
    "sweep": "--dry-run",
    "generate": "--length 10 --prompt the",
    "analyze": "--null 5",
    "census": "--draws 5 --transform dct --jobs 1",
    "mask": "--draws 1",
}
"""By command: what makes it take a second or so."""
RUN, TUNED = "runs/dct_half-tinyshakespeare/version_0", "runs/glue_rte+lora_8-rte/version_0"


def shown(name: str) -> str:
    """A file that a page shows, which begins with its name."""
    pages = "\n".join(page.read_text() for page in PAGES)
    return re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", pages, re.DOTALL)[1]


@pytest.fixture(scope="module")
def site(material, classifiers, tmp_path_factory):
    """A folder that has whatever the commands name."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    shutil.copytree(material / "run", folder / RUN)
    shutil.copytree(classifiers[0], folder / TUNED)
    for seed in (1, 2):
        shutil.copytree(material / "run", folder / f"runs/char_lm_sweep/DCT-seed={seed}/version_0")
    (folder / "my_text.txt").write_text(
        "the quick brown fox jumps over the lazy dog, and runs away.\n" * 67
    )
    for name in ("my_basis.py", "my_task.py", "my_task.yaml", "my_sweep.yaml"):
        (folder / name).write_text(shown(name))
    return folder


@pytest.fixture
def named(backbones, glue):
    """What stands for the capitals in a command: made when it is asked for."""

    def make(word: str, before: str) -> list[str]:
        if before == "census" and not word.startswith("--"):
            assert main(["export", TUNED, "--to", "peft", "--output", "some/adapter"]) == 0
            if word == "FOLDER":
                return ["some"]
            Path(word).write_text("adapter,licence\nsome/adapter,MIT\n")
        if word == "FOLDER":
            return [str(backbones("bert") if before == "--model.backbone" else glue)]
        if word in ("RUN", "RUN..."):
            return [TUNED]
        if word in ("ADAPTER", "ADAPTER..."):
            assert main(["export", TUNED, "--to", "peft", "--output", "adapter"]) == 0
            return ["adapter"]
        if word in ("AFTER", "BEFORE"):
            if word == "BEFORE":
                return [str(backbones("bert"))]
            assert main(["export", TUNED, "--to", "dense", "--output", "after"]) == 0
            return ["after"]
        # Which has 6 methods in place of 27.
        return ["my_sweep.yaml" if word == "char_lm_sweep.yaml" else word]

    return make


@pytest.mark.parametrize(
    "command",
    thinned(COMMANDS, lambda command: command in PAGES[0].read_text() and "glue_" not in command),
)
@pytest.mark.usefixtures("undrawn")
def test_it_runs(command, site, place, named, backbones, glue, capsys):
    shutil.copytree(site, ".", dirs_exist_ok=True)
    words, raw = [], shlex.split(command)[1:]
    for before, word in zip(["", *raw], raw, strict=False):
        words += named(word, before)
    name = words[0]
    if name in ("fit", "params") and "my_task.yaml" not in command and "--ckpt_path" not in words:
        options = dict(TINY)
        if "glue_" in command:
            options = tuning(backbones("bert"), glue)
        elif "causal" in command:
            options = {
                "model.backbone": backbones("gpt2"),
                "data.block_size": 16,
                "trainer.max_steps": 2,
                "trainer.precision": "32-true",
            }
        if "glue_" not in command and "--data.corpus" not in words:
            options["data.corpus"] = "my_text.txt"
        words += [f"--{key}={value}" for key, value in options.items() if f"--{key}" not in words]
    elif name == "fit" and "--ckpt_path" in words:
        words.append("--trainer.max_steps=8")
    elif name == "import":
        words += ["--backbone", str(backbones("bert"))]
    words += shlex.split(SHORT.get(name, ""))
    if "my_task" in command and name == "validate":
        assert main(["fit", "--config", "my_task.yaml"]) == 0
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#]*)#([\w-]+)\)", text):
        heads = re.findall(
            r"^#+ (.*)$", ((page.parent / target) if target else page).read_text(), re.MULTILINE
        )
        assert anchor in [
            re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads
        ], anchor


def test_readme_can_be_read_at_once():
    assert len(PAGES[0].read_text().splitlines()) <= 150
    assert (ROOT / "docs" / "ranks.svg").stat().st_size < 100_000
