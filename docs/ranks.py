"""Draw the README's picture, the stable rank of every weight of two runs as they train.

After `zoo fit --config NAME.yaml --trainer.max_steps 600` of lora_48 and dct_half:

    LORA=runs/lora_48-tinyshakespeare/version_0
    python docs/ranks.py $LORA runs/dct_half-tinyshakespeare/version_0
"""

import sys
from pathlib import Path

from zoo.pages.style import PALETTE, key, legend, panels, styled, svg
from zoo.runs.event_curves import mean_over_layers, read

START = "stable_rank/"
NAMES = {
    "dct_half": "half of the cosine coefficients",
    "lora_48": "rank-48 factors, as many numbers",
}


@styled
def main(folders: list[str]) -> None:
    """Write ranks.svg beside this file: a thin line for each weight, a thick one for their mean."""
    figure, (ax,) = panels("", 1, 1, 3.2, "training step", "stable rank of each weight")
    handles = []
    for folder, colour in zip(folders, PALETTE, strict=False):
        curves = read(Path(folder), [START])
        for tag, curve in curves.items():
            if not tag.removeprefix(START).startswith(("all.", "kind.")):
                ax.plot(*zip(*curve, strict=True), color=colour, linewidth=0.6, alpha=0.4)
        ax.plot(*zip(*mean_over_layers(curves, START), strict=True), color=colour, linewidth=2.2)
        name = Path(folder).parent.name.partition("-")[0]
        handles.append(key(NAMES.get(name, name), colour))
    legend(figure, handles)
    Path(__file__).with_name("ranks.svg").write_bytes(svg(figure))


if __name__ == "__main__":
    main(sys.argv[1:])
