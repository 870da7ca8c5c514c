"""What zoo adds to TensorBoard: a layout of charts, a heatmap, and one row of hyperparameters."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from zoo.convert import kind

VIRIDIS = torch.tensor(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
     [170, 220, 50], [253, 231, 37]], dtype=torch.float32,
)
"""Nine stops of the colour map of that name."""

_ROUND = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
"""Numbers for an axis."""

MEASURES = {
    "stable rank": "stable_rank/",
    "stable rank of dW": "stable_rank/update.",
    "k90 (DCT, by magnitude)": "k90/",
    "k90 (DCT, zigzag)": "k90_zigzag/",
    "low-frequency share": "low_frequency/",
}
"""What the tags of each measure start with."""

METRICS = ("loss", "score", "best", "stable_rank")
"""Of a run's row among the HParams, each as `hp/<name>`; every one stands in the summary."""


def layout(layers: Sequence[str], updates: bool = False) -> dict[str, dict[str, list[object]]]:
    """Custom-scalars layout: a band for each measure, and for each measure a chart a kind of layer.

    TensorBoard 2.21 shows a category's bands behind its other charts and in reverse, so that they get a category of
    their own, the first measure last. It joins the charts of several runs only if they are equal, so that patterns
    leave the block open.

    Args:
        layers: names of the parameterized layers.
        updates: whether there is a base, and so a dW with a rank of its own.
    """
    measures = {title: start for title, start in MEASURES.items() if updates or not start.endswith("update.")}
    charts: dict[str, dict[str, list[object]]] = {"all layers: median, from least to largest": {
        title: ["Margin", [f"{start}all.{s}" for s in ("median", "min", "max")]]
        for title, start in reversed(measures.items())
    }}
    for title, start in measures.items():
        has_null, start = not start.startswith("stable_rank"), re.escape(start)
        both = [f"^{start}all\\.median$", f"^{start}null\\.all\\.median$"]
        charts[title] = {"all layers: median and rotation null": ["Multiline", both]} if has_null else {}
        for k in dict.fromkeys(kind(name) for name in layers):
            patterns = dict.fromkeys(f"^{start}{_pattern(name)}$" for name in layers if kind(name) == k)
            null = [f"^{start}null\\.kind\\.{re.escape(k)}$"] if has_null else []
            charts[title][k] = ["Multiline", [*patterns, *null]]
    return charts


def _pattern(name: str) -> str:
    """Matches a layer of this kind in any block."""
    k = kind(name)
    block = name.removesuffix(k).split(".")[:-1]
    return "\\.".join([*(r"\d+" if part.isdigit() else re.escape(part) for part in block), re.escape(k)])


def heatmap(
    values: Tensor, rows: Sequence[str], columns: Sequence[int], title: str, low: int, high: int
) -> Tensor:
    """An image of a table with labels and a colour bar; (3, height, width), uint8.

    TensorBoard shows it at about half its size, hence the large letters.

    Args:
        values: (rows, columns); one that is not a number is white.
        rows: what each row is called.
        columns: the number under each column.
        title: above the table.
        low: positive, the first colour; the scale is logarithmic.
        high: the last colour. Runs can be compared where both limits are the same.
    """
    font = ImageFont.load_default(18)
    cell = max(24, 192 // len(rows))
    width, height = max(400, min(1200, 12 * len(columns))), cell * len(rows)
    left, top, right, bottom = round(max(map(font.getlength, rows))) + 16, 36, 84, 56
    canvas = Image.new("RGB", (left + width + right, top + height + bottom), "white")
    span = math.log(high / low)
    unit = (values.clamp_min(low) / low).log() / span
    canvas.paste(_coloured(unit).resize((width, height), Image.Resampling.NEAREST), (left, top))
    bar = left + width + 14
    canvas.paste(_coloured(torch.linspace(1, 0, 256)[:, None]).resize((18, height)), (bar, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 8), title, fill="black", font=font)
    for i, row in enumerate(rows):
        draw.text((left - 8, top + cell * (i + 0.5)), row, fill="black", font=font, anchor="rm")
    every = next(n for n in _ROUND if n >= 80 * len(columns) / width)
    for i in range(0, len(columns), every):
        x = left + (i + 0.5) * width / len(columns)
        draw.text((x, top + height + 6), str(columns[i]), fill="black", font=font, anchor="mt")
    draw.text((left + width / 2, top + height + 30), "step", fill="black", font=font, anchor="mt")
    for tick in _ROUND:
        if low <= tick <= high:
            y = top + height * (1 - math.log(tick / low) / span)
            draw.text((bar + 24, y), str(tick), fill="black", font=font, anchor="lm")
    pixels = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8)
    return pixels.view(canvas.height, canvas.width, 3).permute(2, 0, 1)


def _coloured(unit: Tensor) -> Image.Image:
    """Values in [0, 1], (h, w), through the colour map; white for what is no number."""
    place = unit.nan_to_num(0.0).clamp(0, 1) * (len(VIRIDIS) - 1)
    below = place.floor().long().clamp(max=len(VIRIDIS) - 2)
    colours = torch.lerp(VIRIDIS[below], VIRIDIS[below + 1], (place - below)[..., None])
    colours[unit.isnan()] = 255
    return Image.fromarray(colours.round().to(torch.uint8).numpy())


class Logger(TensorBoardLogger):
    """TensorBoard, without the `epoch` that Lightning adds to everything and that is 0 all the time here.

    Opens no file before there is something to log: a fit that fails before its first step writes nothing.
    """

    _begun = False

    def begin(self) -> None:
        """From now on, `experiment` is a real one."""
        self._begun = True

    @property
    def experiment(self) -> Any:  # Lightning asks for it during set-up
        return super().experiment if self._begun else DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.begin()
        super().log_metrics({tag: value for tag, value in metrics.items() if tag != "epoch"}, step)


def log_run(
    logger: TensorBoardLogger, layers: Sequence[str], hyperparameters: dict[str, object], updates: bool = False
) -> None:
    """Once a run: the layout, and the row of hyperparameters, with the same keys in every run.

    The row's metrics are only announced; until a run ends its cells are empty, and no curve starts at a made-up value.
    """
    if isinstance(logger, Logger):
        logger.begin()
    logger.experiment.add_custom_scalars(layout(layers, updates))
    logger.log_hyperparams(hyperparameters, {})
    for summary in hparams(hyperparameters, {f"hp/{name}": None for name in METRICS}):
        logger.experiment.file_writer.add_summary(summary)
