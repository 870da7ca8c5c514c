"""What zoo needs and this machine lacks, from a folder of wheels, without a network."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent.parent


def needed() -> list[Requirement]:
    """What the measurements need: zoo's own dependencies, and those of the models and kernels."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["kernels"], *extras["glue"], *extras["test"]]
    wanted = {Requirement(line).name for line in project["dependencies"]}
    wanted |= {"triton", "transformers", "peft"}
    return [requirement for line in lines if (requirement := Requirement(line)).name in wanted]


def missing(requirements: list[Requirement]) -> list[Requirement]:
    """Those of the requirements, and of what they require in turn, that are not installed or do not fit."""
    found, seen, left = [], set(), list(requirements)
    while left:
        requirement = left.pop()
        marker = requirement.marker
        if str(requirement) in seen or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        seen.add(str(requirement))
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            found.append(requirement)
            continue
        if not requirement.specifier.contains(installed.version, prereleases=True):
            found.append(requirement)
        elif requirement.extras or canonicalize_name(requirement.name) not in TRUSTED:
            left += _in_turn(installed.requires or [], requirement.extras)
    return sorted(found, key=str)


TRUSTED = {"torch", "transformers", "peft", "triton"}
"""Of which what is installed is taken to work as it is: their own needs are many, and CUDA's among them."""


def _in_turn(lines: list[str], extras: set[str]) -> Iterator[Requirement]:
    """What a package requires on this machine, with these extras."""
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            requirement.marker = None
            yield requirement


def install(requirements: list[Requirement], wheels: Path, target: Path) -> None:
    """Unpack the wheels of what is missing into a folder, without what they require in turn.

    Raises:
        FileNotFoundError: if there is no wheel for one, in words for the user.
    """
    files = [(requirement, find(requirement, wheels)) for requirement in requirements]
    if lacking := sorted({requirement.name for requirement, file in files if file is None}):
        raise FileNotFoundError(
            f"'{wheels}' has no wheel that fits this Python for {', '.join(lacking)}: where there is a network, "
            f"pip download --no-deps -d {wheels} {' '.join(lacking)}"
        )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
               "--disable-pip-version-check", "--root-user-action=ignore", "--upgrade",
               "--target", str(target)]
    subprocess.run([*command, *{str(file) for _, file in files}], check=True)


def find(requirement: Requirement, wheels: Path) -> Path | None:
    """The newest wheel in a folder that satisfies a requirement and fits this Python."""
    fitting, tags = [], set(sys_tags())
    for path in wheels.glob("*.whl"):
        try:
            name, version, _, built = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        right = name == canonicalize_name(requirement.name) and requirement.specifier.contains(version)
        if right and not tags.isdisjoint(built):
            fitting.append((version, path))
    return max(fitting)[1] if fitting else None
