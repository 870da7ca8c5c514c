"""What the options of `zoo bench` say: parameterizations, shapes, files and the device."""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli.check import budget, given
from zoo.errors import UserError
from zoo.studies.options import need_extra, parameterizations

if TYPE_CHECKING:
    import torch

    from zoo.studies.bench.layers import Spec

DEFAULT = (
    "DCT ratio=0.5, BlockDCT ratio=0.5, BlockDCT ratio=0.1, LoRA ratio=0.1, RandLoRA ratio=0.1"
)
UPDATE = "DCT lora_rank=8, BlockDCT lora_rank=8, LoRA rank=8, RandLoRA rank=32"


def dotted(argv: Sequence[str]) -> list[str]:
    """Turn each `--parameterization.KEY VALUE` into KEY=VALUE of the parameterization before it.

    Raises:
        UserError: if there is none before it.
    """
    option, inside = "--parameterization", False
    turned: list[str] = []
    end: int | None = None
    rest: Iterator[str] = iter(argv)
    for word in rest:
        if word.startswith(f"{option}."):
            key, equals, value = word.removeprefix(f"{option}.").partition("=")
            if end is None:
                raise UserError(
                    f"{word} belongs to a parameterization: give {option} NAME before it"
                )
            turned.insert(end, f"{key}={value if equals else next(rest, '')}")
            end, inside = end + 1, False
            continue
        if word == option or word.startswith(f"{option}="):
            turned += word.split("=", 1)
            inside = True
        else:
            inside = inside and not word.startswith("--")
            turned.append(word)
        end = len(turned) if inside else end
    return turned


def default(text: str) -> list[list[str]]:
    """Split a default into its parameterizations, those that there are."""
    import zoo.parameterizations as zoo

    groups = [part.split() for part in text.split(", ")]
    return [group for group in groups if group[0] in zoo.__all__]


def specs(groups: Sequence[Sequence[str]]) -> list["Spec"]:
    """Read parameterizations with their arguments, each once.

    One without arguments has half of the coefficients, or rank 1.

    Raises:
        UserError: for a name that is none, or an argument that is no KEY=VALUE.
    """
    from zoo.studies.bench.layers import Spec

    chosen: dict[str, Spec] = {}
    for names, *pairs in groups:
        if wrong := next((pair for pair in pairs if "=" not in pair), None):
            raise UserError(
                f"--parameterization takes names with commas and KEY=VALUE, as in DCT,LoRA "
                f"ratio=0.1, got {wrong!r}"
            )
        for cls in parameterizations(names).values():
            spec = Spec(cls, given(list(pairs)) or budget(cls))
            chosen.setdefault(spec.label, spec)
    return list(chosen.values())


def shapes_of(text: str) -> list[tuple[int, int]]:
    """Read (outputs, inputs) of each shape, in the order given.

    Raises:
        UserError: naming one that is no shape.
    """
    shapes = []
    for word in text.split(","):
        sides = word.strip().split("x")
        if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise UserError(
                f"--shape takes outputs x inputs, as in 768x768,3072x768, got {word.strip()!r}"
            )
        shapes.append((int(sides[0]), int(sides[1])))
    return list(dict.fromkeys(shapes))


def check_shapes(chosen: Sequence["Spec"], shapes: Sequence[tuple[int, int]], update: bool) -> None:
    """Refuse a parameterization that none of the shapes can have, as with an argument that is none.

    Raises:
        UserError: with what it says of the smallest.
    """
    import torch

    from zoo.studies.bench.layers import contenders

    for spec in chosen:
        reasons: list[str] = []
        for shape in sorted(shapes, key=math.prod):
            (layer,) = contenders([spec], shape, update, [], torch.device("cpu"))
            if not isinstance(layer, str):
                break
            reasons.append(layer)
        else:
            raise UserError(f"--parameterization: {reasons[0]}")


def check_peft(against: Sequence[str], update: bool) -> None:
    """Refuse peft where it is not installed, or there is nothing to compare.

    Raises:
        UserError: naming the extra or the option.
    """
    if "peft" not in against:
        return
    if not update:
        raise UserError("peft has updates alone: --against peft goes with --update")
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            '--against peft needs peft, which is not installed: pip install -e ".[glue]" peft'
        )


def path(text: str | None) -> Path | None:
    """Return the file, if one is given."""
    return None if text is None else Path(text)


def figure_path(text: str | None, force: bool) -> Path | None:
    """Return where a figure goes, without its suffix.

    Raises:
        UserError: if it is there, cannot be written, or matplotlib is not installed.
    """
    if text is None:
        return None
    from zoo.studies.bench.rows import check_file

    need_extra()
    base = Path(text.removesuffix(".png").removesuffix(".svg"))
    for file in (Path(f"{base}.png"), Path(f"{base}.svg")):
        check_file(file, "--figure")
        if file.exists() and not force:
            raise UserError(
                f"'{file}' is there already: give another --figure, or replace it with --force"
            )
    return base


def device_of(name: str, threads: int | None) -> "torch.device":
    """Return the device, usable, and take as many threads as are asked for.

    Raises:
        UserError: if there is none such.
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device takes cpu or cuda, got {name!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    return device
