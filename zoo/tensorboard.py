"""What zoo adds to TensorBoard: a layout of charts, a heatmap, and one row of hyperparameters."""

from collections.abc import Sequence

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw
from torch import Tensor

from zoo.convert import kind

VIRIDIS = torch.tensor(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
     [170, 220, 50], [253, 231, 37]], dtype=torch.float32,
)
"""Nine stops of the colour map of that name."""

MEASURES = {
    "stable rank": "stable_rank",
    "k90 (DCT, by magnitude)": "k90",
    "k90 (DCT, zigzag)": "k90_zigzag",
    "low-frequency share": "low_frequency",
}


def layout(layers: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    """Custom-scalars layout: for each measure a band (median between least and largest) and a chart a kind of layer."""
    kinds = dict.fromkeys(kind(name) for name in layers)
    charts: dict[str, dict[str, list[object]]] = {}
    for title, tag in MEASURES.items():
        charts[title] = {"all layers: median, min, max": ["Margin", [f"{tag}/all.{s}" for s in ("median", "min", "max")]]}
        for k in kinds:
            names = [name for name in layers if kind(name) == k]
            null = [] if tag == "stable_rank" else [f"^{tag}/null\\.kind\\.{_escape(k)}$"]
            charts[title][k] = ["Multiline", [*(f"^{tag}/{_escape(name)}$" for name in names), *null]]
    return charts


def _escape(name: str) -> str:
    return name.replace(".", "\\.")


def heatmap(values: Tensor, rows: Sequence[str], columns: Sequence[int], title: str) -> Tensor:
    """An image of a table with labels and a colour bar; (3, height, width), uint8.

    Args:
        values: (rows, columns); colours run from the least to the largest.
        rows: what each row is called.
        columns: the number under each column.
        title: above the table.
    """
    low, high = values.min().item(), values.max().item()
    unit = (values - low) / max(high - low, 1e-12)
    cell = 18
    width = max(480, min(1200, 12 * values.shape[1]))
    left, top, right, bottom = 8 * max(map(len, rows)) + 12, 26, 90, 24
    height = cell * len(rows)
    canvas = Image.new("RGB", (left + width + right, top + height + bottom), "white")
    canvas.paste(_coloured(unit).resize((width, height), Image.Resampling.NEAREST), (left, top))
    bar = torch.linspace(1, 0, 64)[:, None]
    canvas.paste(_coloured(bar).resize((14, height), Image.Resampling.BILINEAR), (left + width + 16, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 8), title, fill="black")
    for i, row in enumerate(rows):
        draw.text((left - 6, top + cell * i + cell // 2), row, fill="black", anchor="rm")
    for i in {0, len(columns) // 2, len(columns) - 1}:
        x = left + (i + 0.5) * width / len(columns)
        draw.text((x, top + height + 6), str(columns[i]), fill="black", anchor="mt")
    draw.text((left + width + 36, top), f"{high:.3g}", fill="black", anchor="lt")
    draw.text((left + width + 36, top + height), f"{low:.3g}", fill="black", anchor="lb")
    pixels = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8)
    return pixels.view(canvas.height, canvas.width, 3).permute(2, 0, 1)


def _coloured(unit: Tensor) -> Image.Image:
    """Values in [0, 1], (h, w), through the colour map."""
    place = unit.clamp(0, 1) * (len(VIRIDIS) - 1)
    below = place.floor().long().clamp(max=len(VIRIDIS) - 2)
    colours = torch.lerp(VIRIDIS[below], VIRIDIS[below + 1], (place - below)[..., None])
    return Image.fromarray(colours.round().to(torch.uint8).numpy())


def log_run(logger: TensorBoardLogger, layers: Sequence[str], hyperparameters: dict[str, object]) -> None:
    """Once a run: the layout, and the row of hyperparameters, with the same keys in every run."""
    logger.experiment.add_custom_scalars(layout(layers))
    logger.log_hyperparams(hyperparameters, dict.fromkeys(("hp/loss", "hp/best_loss", "hp/stable_rank"), float("nan")))
