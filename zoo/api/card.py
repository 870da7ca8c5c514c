"""The card of an adapter: what a reader of its folder, or of a hub's page, wants to know."""

import html
import math
import re
from collections.abc import Mapping
from typing import Any

from zoo import __version__
from zoo.api.arguments import number, shown
from zoo.errors import UserError
from zoo.layers.names import summary
from zoo.pages.texts import printable
from zoo.runs.adapter_config import spec_of
from zoo.runs.adapter_folder import Stored


def card(stored: Stored) -> str:
    """Write a card in Markdown, in which whatever a user gave is text and no markup.

    Args:
        stored: the adapter.
    """
    specs = [spec_of(factory) for factory in dict.fromkeys(stored.factories.values())]
    methods = dict.fromkeys(spec["class_path"].rpartition(".")[2] for spec in specs)
    settings = [f"{k} = {v}" for spec in specs for k, v in spec["init_args"].items()]
    coefficients = sum(t.numel() for own in stored.coefficients.values() for t in own.values())
    besides = sum(t.numel() for t in stored.trained.values())
    weights = sum(math.prod(shape) for shape in stored.shapes.values())
    about = stored.about
    base = about.base.get("name_or_path", "")
    rows = {
        "Parameterization": ", ".join(methods),
        "Settings": ", ".join(dict.fromkeys(settings)),
        "Network": " ".join(filter(None, (about.base.get("class", ""), base))),
        "Layers": f"{len(stored.shapes)}: {summary(stored.shapes)}",
        "Coefficients": f"{coefficients:,} of {weights:,} weights",
        "Trained besides": f"{besides:,} numbers: {summary(stored.trained)}" if besides else "",
        "Began as": about.source,
        "Data": about.data,
        **{name: f"{value:.4g}" for name, value in about.metrics.items()},
    }
    front = ["---", "library_name: zoo", "tags:", "- zoo", *(f"- {m.lower()}" for m in methods)]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        front.append(f"base_model: {base}")
    table = [f"| {escaped(key)} | {escaped(value)} |" for key, value in rows.items() if value]
    return "\n".join(
        [
            *front,
            "---",
            "",
            f"# An adapter of zoo {__version__}",
            "",
            "| | |",
            "| --- | --- |",
            *table,
            "",
            "```python",
            "import zoo",
            "",
            'model = zoo.load(model, "this/folder")  # the network above, as it was before',
            "```",
            "",
        ]
    )


def numbers_of(metrics: Any) -> dict[str, float]:
    """Return metrics as a file can have them.

    Raises:
        UserError: for anything but numbers by name.
    """
    if not isinstance(metrics, Mapping):
        raise UserError(
            f"metrics are numbers by name, as {{'accuracy': 0.9}}, got {shown(metrics)}: give a "
            "mapping"
        )
    return {str(key): number(f"the metric {key!r}", value) for key, value in metrics.items()}


def escaped(text: object) -> str:
    """Return a text on one line that Markdown and HTML show as it is."""
    line = html.escape(" ".join(printable(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#|!~$])", r"\\\1", line)
