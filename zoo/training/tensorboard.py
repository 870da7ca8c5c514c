"""What zoo adds to TensorBoard: a layout of charts, a heatmap, and one row of hyperparameters."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from zoo.errors import UserError
from zoo.files.locks import Lock
from zoo.layers.names import kind

LOCK = ".lock"
"""The file in a run's folder that says that it is trained in, and by whom."""

VIRIDIS = torch.tensor(
    [
        [68, 1, 84],
        [71, 44, 122],
        [59, 81, 139],
        [44, 113, 142],
        [33, 144, 141],
        [39, 173, 129],
        [92, 200, 99],
        [170, 220, 50],
        [253, 231, 37],
    ],
    dtype=torch.float32,
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

    TensorBoard 2.21 shows a category's bands behind its other charts and in reverse, so that they
    get a category of their own, the first measure last. It joins the charts of several runs only if
    they are equal, so that patterns leave the block open.

    Args:
        layers: names of the parameterized layers.
        updates: whether there is a base, and so a dW with a rank of its own.
    """
    measures = {
        title: start
        for title, start in MEASURES.items()
        if updates or not start.endswith("update.")
    }
    charts: dict[str, dict[str, list[object]]] = {
        "all layers: median, from least to largest": {
            title: ["Margin", [f"{start}all.{s}" for s in ("median", "min", "max")]]
            for title, start in reversed(measures.items())
        }
    }
    for title, start in measures.items():
        has_null, start = not start.startswith("stable_rank"), re.escape(start)
        both = [f"^{start}all\\.median$", f"^{start}null\\.all\\.median$"]
        charts[title] = (
            {"all layers: median and rotation null": ["Multiline", both]} if has_null else {}
        )
        for k in dict.fromkeys(kind(name) for name in layers):
            patterns = dict.fromkeys(
                f"^{start}{_pattern(name)}$" for name in layers if kind(name) == k
            )
            null = [f"^{start}null\\.kind\\.{re.escape(k)}$"] if has_null else []
            charts[title][k] = ["Multiline", [*patterns, *null]]
    return charts


def _pattern(name: str) -> str:
    """Matches a layer of this kind in any block."""
    k = kind(name)
    block = name.removesuffix(k).split(".")[:-1]
    return "\\.".join(
        [*(r"\d+" if part.isdigit() else re.escape(part) for part in block), re.escape(k)]
    )


def heatmap(
    values: Tensor, rows: Sequence[str], columns: Sequence[int], title: str, low: int, high: int
) -> Tensor:
    """Draw an image of a table with labels and a colour bar; (3, height, width), uint8.

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
    """Logs to TensorBoard without the `epoch` that Lightning adds, and that is always 0 here.

    Opens no file and makes no folder before there is something to log: a fit that fails before its
    first step writes nothing. The folder is then made by whoever is first, and locked as long as it
    is trained in.
    """

    _lock: Lock | None = None
    _claimed = _begun = False

    def held_by(self, lock: Lock) -> "Logger":
        """This logger, for a run that goes on and whose folder is locked already."""
        self._lock, self._claimed = lock, True
        return self

    @property
    def version(self) -> int | str:
        """The run's own version; before it has a folder, the one that it would get now."""
        return self._get_next_version() if self._version is None else self._version

    def claim(self) -> None:
        """Make the folder of the next free version, and lock it; on the first rank.

        Raises:
            UserError: if another process trains in it.
        """
        if self._claimed:
            return
        while self._version is None:
            number = self._get_next_version()
            try:
                Path(self.root_dir).mkdir(parents=True, exist_ok=True)
                (Path(self.root_dir) / f"version_{number}").mkdir()
                self._version = number
            except FileExistsError:  # another fit has just taken it
                continue
        self._lock, self._claimed = locked(Path(self.log_dir)), True

    def agree(self, strategy: Any) -> None:
        """Claim the folder on the first rank, and tell the others its name."""
        if strategy.is_global_zero:
            self.claim()
        self._version = strategy.broadcast(self._version)

    def begin(self) -> None:
        """Make `experiment` a real one from now on."""
        if getattr(rank_zero_only, "rank", 0) == 0:
            self.claim()
        self._begun = True

    @property
    def experiment(self) -> Any:  # Lightning asks for it during set-up
        return super().experiment if self._begun else DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.begin()
        super().log_metrics({tag: value for tag, value in metrics.items() if tag != "epoch"}, step)

    def save(self) -> None:
        """Write events alone: what a `hparams.yaml` would hold stands in the run's config.yaml."""

    def finalize(self, status: str) -> None:
        """Close the events, and let others train in the folder."""
        super().finalize(status)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_lock": None}


def locked(folder: Path) -> Lock:
    """Hold a run's folder for one process that trains in it.

    Raises:
        UserError: if another one does.
    """
    lock = Lock(folder / LOCK)
    try:
        free = lock.acquire()
    except OSError as error:
        raise UserError(
            f"'{folder}' cannot be trained in ({LOCK}: {error.strerror}): use another one"
        ) from None
    if not free:
        raise UserError(
            f"'{folder}' is trained in already, by {lock.holder()}: let that end, or start a new "
            "run"
        )
    return lock


def log_run(
    logger: TensorBoardLogger,
    layers: Sequence[str],
    hyperparameters: dict[str, object],
    updates: bool = False,
) -> None:
    """Once a run: the layout, and the row of hyperparameters, with the same keys in every run.

    The row's metrics are only announced; until a run ends its cells are empty, and no curve starts
    at a made-up value.
    """
    if isinstance(logger, Logger):
        logger.begin()
    logger.experiment.add_custom_scalars(layout(layers, updates))
    logger.log_hyperparams(hyperparameters, {})
    for summary in hparams(hyperparameters, {f"hp/{name}": None for name in METRICS}):
        logger.experiment.file_writer.add_summary(summary)
