"""A matplotlib figure as SVG that can stand inside a page: it has no ids of its own, and takes its colours from there.

Text stays text in the fonts of the page. Colours are written as CSS variables, so that one picture serves a light and a
dark page. Every id carries the name of its chart. Nothing is referred to outside of it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgedeploy.errors import Unavailable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a chart may be drawn in: a stand-in that matplotlib takes, for a variable of the page. The series are those of
#: M. Okabe and K. Ito, "Color Universal Design", 2008, which people see apart whatever their colour vision.
INK, MUTED, GRID, PAPER = "#a00010", "#a00011", "#a00012", "#a00013"
SERIES = tuple(f"#a0000{i}" for i in range(1, 7))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
VARIABLES |= {stand_in: f"--series-{i}" for i, stand_in in enumerate(SERIES, start=1)}

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_FONT = re.compile(r"font-family:[^;]*;?|font:\s*([\d.]+px)[^;]*;?")
_LONG = re.compile(r"-?\d+\.\d{2,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NEVER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

#: The look that every chart starts from.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify": False,
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def clean(text: str) -> str:
    """``text`` without the characters that no XML and no UTF-8 can hold."""
    return _NEVER.sub("\N{REPLACEMENT CHARACTER}", text)


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Inside, figures are made in `STYLE`, with ids that depend on ``salt`` and the drawing alone.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise Unavailable.extra("matplotlib, which draws charts,", "report") from error
    with warnings.catch_warnings(), matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        warnings.simplefilter("ignore")  # a name in a script that its font lacks: the reader's browser has a font
        yield


def inline(figure: Figure, name: str, title: str, description: str) -> str:
    """``figure`` as one ``<svg>`` element, to be called inside `drawing`.

    Args:
        figure: what to save.
        name: a letter, then letters, digits and hyphens; no other chart of the page has it.
        title: what the chart is, for who cannot see it.
        description: what can be seen.
    """
    raw = io.StringIO()
    figure.savefig(raw, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(raw.getvalue())
    _simplify(root)
    _rename(root, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
    for i, (kind, text) in enumerate((("title", title), ("desc", description))):
        said = ElementTree.Element(kind, {"id": f"{name}-{'title' if kind == 'title' else 'description'}"})
        said.text = clean(text)
        root.insert(i, said)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _simplify(root: ElementTree.Element) -> None:
    """Names without namespaces, no metadata, no style sheet, coordinates to a tenth, colours as variables."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        if element.tag != "text":
            element.text = None
        for key, value in list(element.attrib.items()):
            if key == f"{_LINK}href":
                element.attrib["href"] = element.attrib.pop(key)
            elif key in ("d", "x", "y", "points", "transform", "width", "height"):
                element.attrib[key] = _short(value)
            elif key == "style":
                element.attrib[key] = _style(value)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("defs", "g") and not len(child) and not child.get("id", "").startswith("keep"):
                parent.remove(child)
    _drop_nothing(root)


def _drop_nothing(root: ElementTree.Element) -> None:
    """Shapes that are neither filled nor stroked are left out: matplotlib has two of them in each chart."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "path" and child.get("style") == "fill:none" and parent.tag != "clipPath":
                parent.remove(child)


def _short(numbers: str) -> str:
    rounded = _LONG.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), numbers)
    turned = re.sub(r"rotate\(-?0 [^)]*\)", "", rounded)
    return " ".join(turned.replace("-0 ", "0 ").split())


def _style(style: str) -> str:
    kept = _FONT.sub(lambda found: f"font-size:{found[1]};" if found[1] else "", style)
    for stand_in, variable in VARIABLES.items():
        kept = kept.replace(stand_in, f"var({variable})")
    return re.sub(r"\s*([:;])\s*", r"\1", kept).strip("; ")


def _rename(root: ElementTree.Element, name: str) -> None:
    """Ids that nothing refers to go; the others are numbered under ``name``: matplotlib's differ from run to run."""
    used = set()
    for element in root.iter():
        used |= {element.get("href", "#")[1:], *(_REFERENCE.findall(" ".join(element.attrib.values())))}
    found = [element.get("id") for element in root.iter() if element.get("id") in used]
    numbered = {one: f"{name}-{number}" for number, one in enumerate(found, start=1)}
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in numbered:
            element.attrib["id"] = numbered[identity]
        for key, value in element.attrib.items():
            if key == "href":
                element.attrib[key] = f"#{numbered[value[1:]]}"
            elif key != "id":
                element.attrib[key] = _REFERENCE.sub(lambda one: f"url(#{numbered[one[1]]})", value)
        if element.get("transform") == "":
            del element.attrib["transform"]
