"""What zoo needs and this machine lacks, from a folder of wheels, without network and pip.

What is installed is taken to work as it is. Beside torch, lightning, torchmetrics, transformers,
peft, tensorboard, einops, numpy and triton that is jsonargparse and what it needs to read
docstrings, `BROUGHT`. More wheels than are needed do no harm: bring those of whose version one is
not sure.
"""

import importlib
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[3]
BROUGHT = ("jsonargparse<5", "docstring-parser", "typeshed-client")
"""The wheels, all pure Python, that a machine with the packages above needs; those bring PyYAML."""
DOWNLOAD = "pip download --no-deps --only-binary :all: -d FOLDER " + " ".join(
    f"'{each}'" for each in BROUGHT
)
"""How to have them, where there is a network."""


def needed() -> list[Requirement]:
    """Return what the measurements need: zoo's dependencies, those of the models, and kernels'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["kernels"], *extras["glue"], *extras["test"]]
    wanted = {Requirement(line).name for line in project["dependencies"]}
    wanted |= {"triton", "transformers", "peft"}
    return [requirement for line in lines if (requirement := Requirement(line)).name in wanted]


def missing(requirements: list[Requirement], site: Path) -> list[Requirement]:
    """Return those of the requirements that are not installed or do not fit.

    So are those that they require in turn, of packages that have come from wheels into `site`, and
    of extras: pip has not seen to these.
    """
    lacking, seen, left = [], set(), list(requirements)
    while left:
        requirement = left.pop()
        marker = requirement.marker
        if str(requirement) in seen or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        seen.add(str(requirement))
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            lacking.append(requirement)
            continue
        # A vendor's build of a version, as 2.11.0a0+abc, is that version.
        if not requirement.specifier.contains(Version(installed.version).base_version):
            lacking.append(requirement)
        elif requirement.extras or Path(str(installed.locate_file(""))) == site:
            left += _in_turn(installed, requirement.extras)
    return sorted(lacking, key=str)


def _in_turn(installed: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """Yield what a package requires on this machine, with these extras."""
    for line in installed.requires or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            requirement.marker = None
            yield requirement


def install(requirements: list[Requirement], wheels: Path, target: Path) -> None:
    """Unpack the wheels of what is missing into a folder, without what they require in turn.

    Raises:
        ValueError: if there is no wheel for one, or it is damaged, in words for the user.
    """
    files = [(requirement, find(requirement, wheels)) for requirement in requirements]
    if lacking := sorted(str(requirement) for requirement, file in files if file is None):
        names = " ".join(f"'{name}'" for name in lacking)
        raise ValueError(
            f"'{wheels}' has no wheel that fits this Python for {names}: where there is a network, "
            f"pip download --no-deps --only-binary :all: -d {wheels} {names}"
        )
    for file in sorted({file for _, file in files if file is not None}):
        unpack(file, target)
    importlib.invalidate_caches()


def unpack(wheel: Path, target: Path) -> None:
    """Unpack a wheel's modules into a folder.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                top, _, rest = member.filename.partition("/")
                if top.endswith(".data"):  # of which scripts and headers are not wanted
                    kind, _, member.filename = rest.partition("/")
                    if kind not in ("purelib", "platlib") or not member.filename:
                        continue
                archive.extract(member, target)  # which leads out of no folder
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error) as error:
        raise ValueError(f"the wheel '{wheel}' is damaged, {error}: download it again") from None


def find(requirement: Requirement, wheels: Path) -> Path | None:
    """Find the newest wheel in a folder that satisfies a requirement and fits this Python."""
    fitting, tags = [], set(sys_tags())
    for path in wheels.glob("*.whl"):
        try:
            name, version, _, built = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        right = name == canonicalize_name(requirement.name) and requirement.specifier.contains(
            version
        )
        if right and not tags.isdisjoint(built):
            fitting.append((version, path))
    return max(fitting)[1] if fitting else None
