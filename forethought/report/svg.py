"""Plots as inline SVG that takes its colours from the page: matplotlib draws, this module makes it fit in.

A page with a strict content security policy may not hold ``style`` attributes.  They become classes of one style
sheet, and colours in it become the page's CSS variables, so that a plot turns dark with the page.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

COLOURS = {
    name: f"#0101{number:02x}"
    for number, name in enumerate(("ink", "faint", "line", "base", "improved", "continued", "null"), 1)
}
"""Colours to draw with; each stands for the CSS variable of its name."""

_ABOVE, _BESIDE = 8.0, 12.0
"""Points above and right of axes."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of judges and arms are no formulas
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["faint"],
    "ytick.labelcolor": COLOURS["faint"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.solid_capstyle": "round",
}


class Styles:
    """The classes that the plots of a page share."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def name(self, style: str) -> str:
        """Return the class of a ``style`` attribute."""
        return self._known.setdefault(style, f"m{len(self._known)}")

    @property
    def css(self) -> str:
        """The style sheet."""
        return "\n".join(f".{name}{{{_coloured(style)}}}" for style, name in self._known.items())


def styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Return ``draw`` under this module's settings; matplotlib reads them when it makes a text or a line."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_SETTINGS):
            return draw(*args, **kwargs)

    return drawn


def printable(text: str) -> str:
    """Return ``text`` without the characters that XML cannot hold."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def new(width: float, height: float, left: float, below: float) -> tuple[Figure, Axes]:
    """Return a figure of ``width`` x ``height`` points, for no display, and axes ``left`` and ``below`` points inside.

    The other margins are fixed, too: plots of a row line up, and none is laid out twice.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    box = (left / width, below / height, 1 - (left + _BESIDE) / width, 1 - (below + _ABOVE) / height)
    return figure, figure.add_axes(box)


def inline(figure: Figure, label: str, styles: Styles) -> str:
    """Return ``figure`` as an ``svg`` element with ``label`` for who cannot see it.

    Its ids are hashes with the label, so that two figures of a page never share one.
    """
    import matplotlib

    written = io.BytesIO()
    label = printable(label)
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(written.getvalue())
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", written.getvalue().decode()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}style",) or child.tag.endswith("}metadata"):
                parent.remove(child)
    for element in root.iter():
        _fit(element, used, styles)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("class", "plot")
    return ElementTree.tostring(root, encoding="unicode")


def _fit(element: ElementTree.Element, used: set[str], styles: Styles) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    if (style := element.attrib.pop("style", None)) is not None:
        element.set("class", styles.name(style))
    if element.get("id") not in used:
        element.attrib.pop("id", None)
    if (link := element.attrib.pop(_LINK, None)) is not None:
        element.set("href", link)


def _coloured(style: str) -> str:
    """Return a style with the page's colours and its font."""
    for name, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{name})")
    return re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px; font-family: inherit", style)
