"""Pieces of a page of HTML that needs nothing else: no network, no other file, a light and a dark scheme.

What is not `Html` is text from somewhere, and is escaped.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from zoo.pages.style import GRID, INK, MUTED, SURFACE
from zoo.pages.texts import printable

SCHEME = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"}
"""Colours of figures that are the page's own, and change with its scheme."""

CSS = """
:root { color-scheme: light dark;
  --ink: #24292f; --muted: #646b78; --grid: #e3e6ea; --surface: #ffffff; --shade: #f5f6f8;
  --yes: #00588a; --yes-back: #dceefa; --some: #7a4a00; --some-back: #fbe9cf; --no: #545b66; --no-back: #eceef1; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #dfe3e8; --muted: #98a1ad; --grid: #343b45; --surface: #15181c; --shade: #1d2127;
  --yes: #8fd0f7; --yes-back: #11384f; --some: #f3c27d; --some-back: #46300f; --no: #b3bac4; --no-back: #2b3038; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--surface); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 48rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, ul { margin: .5rem 0; }
code { font: .85em ui-monospace, monospace; background: var(--shade); padding: .1em .3em; border-radius: 3px;
  overflow-wrap: anywhere; }
.facts { color: var(--muted); font-size: .875rem; }
.word { display: inline-block; padding: 0 .5em; border-radius: 1em; font-size: .875em; font-weight: 600;
  white-space: nowrap; color: var(--no); background: var(--no-back); }
.word.yes { color: var(--yes); background: var(--yes-back); }
.word.some { color: var(--some); background: var(--some-back); }
.wide { width: max-content; min-width: 100%; max-width: min(80rem, 100vw - 2rem); overflow-x: auto;
  position: relative; left: 50%; transform: translateX(-50%); margin: .75rem 0; }
.wide table { margin: 0 auto; min-width: min(46rem, 100%); }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; vertical-align: bottom; }
th.left, td.left { text-align: left; max-width: 22rem; overflow-wrap: break-word; }
td { white-space: nowrap; } td.left { white-space: normal; } 
td.left:first-child { min-width: 10rem; } td.left:nth-child(3) { min-width: 13rem; }
tbody tr:hover { background: var(--shade); }
caption { caption-side: top; text-align: left; font-weight: 600; padding: .3rem .6rem; }
small { color: var(--muted); font-size: inherit; }
figure { margin: 1.5rem 0 2.25rem; }
figure { overflow-x: auto; } figure svg { display: block; width: 100%; min-width: 36rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, sans-serif !important; }
figcaption { color: var(--muted); font-size: .875rem; margin-top: .5rem; }
details { margin: .5rem 0; } details details { margin-left: 1rem; }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--muted); font-size: .875rem; }
"""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything as HTML."""
    return value if isinstance(value, Html) else Html(html.escape(printable(value)))


def element(name: str, *parts: object, css: str = "") -> Html:
    """<name class=css>parts</name>."""
    attribute = f' class="{html.escape(css)}"' if css else ""
    return Html(f"<{name}{attribute}>{''.join(map(text, parts))}</{name}>")


def paragraph(*parts: object, css: str = "") -> Html:
    """A paragraph of parts, joined by blanks."""
    return element("p", Html(" ".join(map(text, parts))), css=css)


def section(title: str, *parts: object) -> Html:
    """Parts under a heading."""
    return element("section", element("h2", title), *parts)


def details(summary: object, *parts: object) -> Html:
    """Parts that are folded away."""
    return element("details", element("summary", summary), *parts)


def table(
    headers: Sequence[object], rows: Iterable[Sequence[object]], left: int = 1, caption: str = ""
) -> Html:
    """A table that may be wider than the text, and scrolls by itself.

    Args:
        headers: of the columns.
        rows: of as many cells.
        left: the first so many columns are words, set to the left; the others numbers.
        caption: above it.
    """

    def row(name: str, cells: Sequence[object]) -> Html:
        return element(
            "tr",
            *(element(name, cell, css="left" if i < left else "") for i, cell in enumerate(cells)),
        )

    top = element("caption", caption) if caption else ""
    head, body = (
        element("thead", row("th", headers)),
        element("tbody", *(row("td", cells) for cells in rows)),
    )
    return element("div", element("table", top, head, body), css="wide")


def drawing(name: str, svg: bytes, caption: str) -> Html:
    """An SVG by matplotlib as a part of the page, with a caption under it.

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
    tree = re.sub(r"<[^>]+>", lambda found: _own(found[0], html.escape(name)), tree)
    view = re.search(r'viewBox="[^"]*"', tree)
    label = f'<svg role="img" aria-label="{html.escape(name)}" {view[0] if view else ""}>'
    image = Html(re.sub(r"<svg[^>]*>", lambda _: label, tree, count=1))
    return element("figure", image, element("figcaption", caption) if caption else "")


def _own(tag: str, name: str) -> str:
    """A tag of an SVG with ids and colours of its own."""
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    return re.sub("|".join(SCHEME), lambda found: f"var(--{SCHEME[found[0]]})", tag)


def document(title: str, facts: Mapping[str, object], *parts: object) -> str:
    """A whole page.

    Args:
        title: of it.
        facts: `zoo`, `date`, `command`, `device`, `seconds`: how it came about, in one line under
            the title.
        parts: of it.
    """
    line = f"zoo {facts['zoo']} · {facts['date']} · {facts['device']} · {float(str(facts['seconds'])):.1f} s"
    head = (
        element("title", title)
        + '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    top = (
        element("h1", title),
        paragraph(element("code", facts["command"])),
        paragraph(line, css="facts"),
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{head}<style>{CSS}</style></head>\n'
        f"<body>{element('main', *top, *parts)}</body></html>\n"
    )
