"""Pages and figures as parts of a notebook's page, which has other parts beside them.

Nothing of them reaches what stands around: their style is of what is within them alone, no script
runs, and no id of a drawing is another one's. They take the colours of the notebook's own theme.
"""

import hashlib
import re
from collections.abc import Mapping

from markupsafe import Markup

from zoo.pages.html import ENVIRONMENT
from zoo.pages.style import Figure, svg

LAYOUT = "pages/templates/notebook.html.j2"
"""The template of a part of a page."""
CLASS = "zoo-page"
"""What style sheets know it by."""


class Figures(dict[str, Figure]):
    """Figures by name, which a notebook shows one below another."""

    def _repr_html_(self) -> str:
        """Return all of them as a part of a page."""
        template = ENVIRONMENT.get_template("pages/templates/notebook_figures.html.j2")
        return template.render(title=None, drawings=own_ids(self))


def own_ids(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Draw figures as SVG, with ids that no other figures have on the page that they come into."""
    drawings = {name: svg(figure) for name, figure in figures.items()}
    whole = hashlib.sha256(b"".join(drawings.values())).hexdigest()[:8].encode()

    def prefixed(tag: re.Match[bytes]) -> bytes:
        return re.sub(rb'(\bid="|url\(#|href="#)', rb"\g<1>" + whole + b"-", tag[0])

    return {name: re.sub(rb"<[^>]+>", prefixed, each) for name, each in drawings.items()}


def scoped(css: str) -> Markup:
    """Return rules that hold within a part of a page alone, and before the notebook's own there."""
    inside = f".{CLASS}.{CLASS}"  # twice, for a specificity above that of a notebook's own rules

    def rule(selectors: re.Match[str]) -> str:
        return ", ".join(f"{inside} {each.strip()}" for each in selectors[1].split(",")) + " {"

    return Markup(re.sub(r"([^{}]+)\{", rule, css))


ENVIRONMENT.filters["scoped"] = scoped
