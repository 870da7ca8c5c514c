"""Pages of HTML that need nothing else: no network, no other file, a light and a dark scheme.

Templates escape whatever is put into them, but for `Markup`.
"""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zoo.pages.data import Data
from zoo.pages.numbers import decimals, general, number_of, plus_minus, typeset
from zoo.pages.style import GRID, INK, MUTED, SURFACE
from zoo.pages.texts import printable

PAGE = "pages/templates/page.html.j2"
"""The template of a page of its own, which a study's content is put into."""
Drawings = Mapping[str, bytes]
"""SVG by the name of the figure."""
SCHEME = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"}
"""Colours of figures that are the page's own, and change with its scheme."""


def captioned(drawings: Drawings, captions: Mapping[str, str]) -> list[Markup]:
    """Return figures, with captions under them.

    Args:
        drawings: of a report.
        captions: by what names of figures begin with; of several figures the first has it.
    """
    left, drawn = dict(captions), []
    for name, svg in drawings.items():
        key = max((key for key in captions if name.startswith(key)), key=len, default="")
        drawn.append(drawing(name, svg, left.pop(key, "")))
    return drawn


def drawing(name: str, svg: bytes, caption: str) -> Markup:
    """Return an SVG by matplotlib as a part of the page, with a caption under it.

    Its colours become those of the page's scheme, and its ids begin with its name, as those of two
    figures are equal.
    """
    tree = svg.decode("utf-8")
    tree = re.sub(
        r"<!--.*?-->|<style.*?</style>|<metadata>.*?</metadata>",
        "",
        tree[tree.index("<svg") :],
        flags=re.S,
    )
    tree = re.sub(r"<[^>]+>", lambda tag: _of_page(tag[0], escape(name)), tree)
    tree = re.sub(r">\s+<", "><", tree)
    view = re.search(r'viewBox="[^"]*"', tree)
    label = f'<svg role="img" aria-label="{escape(name)}" {view[0] if view else ""}>'
    image = re.sub(r"<svg[^>]*>", lambda _: label, tree, count=1)
    caption = escape(" ".join(caption.split()))
    under = f"<figcaption>{caption}</figcaption>" if caption else ""
    return Markup(f"<figure>{image}{under}</figure>")


def _of_page(tag: str, name: str) -> str:
    """Return a tag of an SVG with ids that no other figure has, and the colours of the page."""
    tag = tag.replace("xlink:href", "href")
    if not tag.startswith("<image"):  # a page has one font, and shows no thousandths of a point
        tag = re.sub(r"font-family: [^;\"]+;? ?", "", tag)
        tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
        tag = re.sub(r' transform="rotate\(-?0 [^)]*\)"|(?<=^<g) id="[^"]*"(?=>$)', "", tag)
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    return re.sub("|".join(SCHEME), lambda colour: f"var(--{SCHEME[colour[0]]})", tag)


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),  # of zoo: each study has its own template
    autoescape=True,
    undefined=StrictUndefined,
    finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["captioned"] = captioned
ENVIRONMENT.filters |= {
    "bytes": lambda count: f"{count:,.0f} bytes",
    "decimals": decimals,
    "general": general,
    "number_of": number_of,
    "plus_minus": plus_minus,
    "typeset": typeset,
}


def render(template: str, title: str, data: Data, layout: str = PAGE, **parts: object) -> str:
    """Return a page.

    Args:
        template: its path below zoo/.
        title: of the page.
        data: of its JSON file, with the facts on top: zoo, date, command, device, seconds.
        layout: the template that its content is put into, if it `extends` that.
        parts: what else the template names.
    """
    return ENVIRONMENT.get_template(template).render(title=title, data=data, layout=layout, **parts)
