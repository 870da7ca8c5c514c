"""`results.gpu.frame.wheels`: what is missing is unpacked from wheels that fit, without pip; a
damaged one is said.
"""

import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from results.gpu.frame import wheels


def wheel(
    folder: Path, name: str, tag: str = "py3-none-any", requires: tuple[str, ...] = (), **files: str
) -> Path:
    """A wheel of `name`, as zoology-1.2, with a module of its name."""
    project, version = name.split("-")
    info = f"{name}.dist-info/METADATA"
    head = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}"
    text = "\n".join([head, *(f"Requires-Dist: {each}" for each in requires)])
    path = folder / f"{name}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, content in {
            f"{project}/__init__.py": "here = True\n" * 99,
            info: text,
            **files,
        }.items():
            archive.writestr(place, content)
    return path


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def test_what_is_missing_is_unpacked_and_what_that_needs_too(tmp_path, site):
    """In turn, for what came from wheels and for extras; not for what is installed."""
    wheel(
        tmp_path,
        "zoology-1.2",
        requires=("botany>=2; extra == 'plants'", "torch>=99; extra == 'no'"),
    )
    wheel(tmp_path, "botany-2.0", requires=("torch", "geology<1"))
    asked = [Requirement("zoology[plants]<2"), Requirement("torch>=2")]
    assert list(map(str, wheels.missing(asked, site))) == ["zoology[plants]<2"]
    wheels.install(wheels.missing(asked, site), tmp_path, site)
    assert [each.name for each in wheels.missing(asked, site)] == ["botany"]
    wheels.install(wheels.missing(asked, site), tmp_path, site)
    assert [str(each) for each in wheels.missing(asked, site)] == ["geology<1"]
    with pytest.raises(ValueError, match="no wheel that fits this Python for 'geology<1'"):
        wheels.install(wheels.missing(asked, site), tmp_path, site)
    import zoology

    assert zoology.here


@pytest.mark.parametrize(
    ("installed", "fits"), [("2.11.0+cu130", True), ("2.11.0a0+abc.nv", True), ("2.10.1", False)]
)
def test_a_vendors_build_is_its_version(tmp_path, site, installed, fits):
    (site / f"zoology-{installed}.dist-info").mkdir()
    (site / f"zoology-{installed}.dist-info" / "METADATA").write_text(
        f"Name: zoology\nVersion: {installed}\n"
    )
    assert (wheels.missing([Requirement("zoology>=2.11,<2.14")], site) == []) == fits


def test_the_newest_wheel_that_fits_is_taken(tmp_path):
    for name in ("zoology-1.2", "zoology-1.10", "zoology-2.0"):
        wheel(tmp_path, name)
    wheel(tmp_path, "zoology-1.11", "cp27-cp27m-win32")
    wheel(tmp_path, "zoology-1.12", "py2-none-any")
    (tmp_path / "zoology.whl").write_text("of no name")
    assert wheels.find(Requirement("Zoology<2"), tmp_path).name == "zoology-1.10-py3-none-any.whl"
    assert wheels.find(Requirement("zoology>2"), tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "text", "bits", "empty"])
def test_a_damaged_wheel_is_said(tmp_path, site, damage):
    path = wheel(tmp_path, "zoology-1.2")
    whole = path.read_bytes()
    bits = whole[:60] + bytes(255 - each for each in whole[60:64]) + whole[64:]
    path.write_bytes({"cut": whole[:-40], "text": b"hello", "bits": bits, "empty": b""}[damage])
    with pytest.raises(ValueError, match="is damaged, .*: download it again"):
        wheels.install([Requirement("zoology")], tmp_path, site)


def test_modules_elsewhere_in_a_wheel_come_and_scripts_do_not(tmp_path, site):
    path = wheel(
        tmp_path,
        "zoology-1.2",
        **{
            "zoology-1.2.data/platlib/zoology/fast.py": "",
            "zoology-1.2.data/scripts/zoo": "",
            "../out.py": "",
        },
    )
    wheels.unpack(path, site)
    assert (site / "zoology" / "fast.py").exists()
    assert not list(site.rglob("zoo")) and not (tmp_path / "out.py").exists()


def test_the_wheels_that_help_names_are_all_that_a_machine_lacks():
    """What jsonargparse[signatures] needs, and lightning or transformers do not."""
    brought = {Requirement(line).name for line in wheels.BROUGHT}

    def names(lines: list[str], extras: tuple[str, ...]) -> set[str]:
        found = set()
        for each in map(Requirement, lines):
            if each.marker is None or any(
                each.marker.evaluate({"extra": extra}) for extra in extras
            ):
                found |= {each.name} | names(
                    distribution(each.name).requires or [], ("", *each.extras)
                )
        return {name.lower().replace("_", "-") for name in found}

    needs = names(["jsonargparse[signatures]"], ("",)) - {"jsonargparse"}
    there = names(["lightning", "transformers"], ("",))
    assert needs - there == brought - {"jsonargparse"}


def test_no_more_is_needed_than_the_machine_has():
    has = {
        "torch",
        "lightning",
        "torchmetrics",
        "transformers",
        "peft",
        "safetensors",
        "tensorboard",
        "einops",
        "triton",
        "numpy",
    }
    assert {each.name for each in wheels.needed()} == has | {"jsonargparse", "docstring-parser"}
