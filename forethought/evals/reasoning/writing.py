"""One way of writing for the many that an answer may come in: signs, spaces, digits, thousands, boxes.

Every reader and every comparison of :mod:`forethought.evals.reasoning.grading` sees texts through :func:`plain`.
"""

from __future__ import annotations

import re
import unicodedata

# A minus sign, hyphens, dashes. An em dash is punctuation, except right before a digit.
_SIGNS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\u02d7\u2796\u207b"), "-")
_INVISIBLE = dict.fromkeys([0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)])
_SYMBOLS = {
    ord(one): latex
    for one, latex in {
        "\u00d7": "\\times ",
        "\u00b7": "\\cdot ",
        "\u22c5": "\\cdot ",
        "\u2219": "\\cdot ",
        "\u00f7": "/",
        "\u2044": "/",
        "\u2215": "/",
        "\u00b0": "^\\circ ",
        "\u221e": "\\infty ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u2260": "\\ne ",
        "\u00b1": "\\pm ",
        "\u03c0": "\\pi ",
    }.items()
}
_DEGREES = str.maketrans("\u00ba\u02da", "\u00b0\u00b0")
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b\u207f]+")
_LOWERED = re.compile("[\u2080-\u2089]+")
_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
_ROOT = re.compile(r"\u221a\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
# What stands between thousands besides a comma: a space that is not the ordinary one, or LaTeX for one.
_THIN = "\u00a0\u2007\u2009\u200a\u202f"
_THOUSANDS = re.compile(
    rf"(?<![\d.,])[1-9]\d{{0,2}}(?:(?:\{{,\}}|,\\!|,\{{\}}|\\[,;:! ]|~|[{_THIN}'\u2019])\d{{3}})+(?![\d,])"
)
_APART = re.compile(r"((?:^|[=:(\[{#$*]|\bis\b)\s*)-[ \t]+(?=[$.]?\d)", re.MULTILINE)
_BOXES = re.compile(
    r"\\(?:boxed|fbox)\s*(?P<open>\{)|\\boxed\s+(?P<bare>-?\d[\d.,/]*(?<![.,/])|[^\s{\\])|\\.|(?P<brace>[{}])",
    re.DOTALL,
)
_STYLE = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|bf|bm|operatorname|mbox)\s*\{([^{}]*)\}"
)


def plain(text: str) -> str:
    """Return ``text`` with one character for each sign, one way of writing thousands, and LaTeX for what is raised."""
    if text.isascii() and "\\" not in text and "- " not in text and not re.search(r"\d(?:[~']|\{,)", text):
        return text
    text = _THOUSANDS.sub(lambda found: re.sub(r"\D+", ",", found[0]), text.translate(_DEGREES).replace("\\$", "$"))
    # NFKC would make x2 of a raised 2.
    text = _RAISED.sub(lambda found: f"^{{{_ascii(found[0])}}}", text)
    text = _LOWERED.sub(lambda found: f"_{{{_ascii(found[0])}}}", text)
    text = _FRACTION.sub(lambda found: "\\frac{{{}}}{{{}}}".format(*_ascii(found[0]).split("/")), text)
    text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).translate(_SIGNS)
    text = re.sub(r"(?<!\w)[\u2014\u2015](?=[$.]?\d)", "-", text)
    text = _ROOT.sub(lambda found: f"\\sqrt{{{found[1] or found[2]}}}", text).translate(_SYMBOLS)
    return _APART.sub(r"\1-", text)


def boxes(text: str) -> list[str]:
    r"""Return what each whole ``\boxed{...}`` holds, matched brace by brace; empty ones are left out."""
    found: list[tuple[int, str]] = []
    opened: list[int | None] = []
    for token in _BOXES.finditer(text):
        if token["open"]:
            opened.append(token.end())
        elif token["bare"]:
            found.append((token.start(), token["bare"]))
        elif token["brace"] == "{":
            opened.append(None)
        elif token["brace"] == "}" and opened and (start := opened.pop()) is not None:
            found.append((start, text[start : token.start()]))
    return [inside for _, inside in sorted(found) if unstyled(inside).strip(" $.")]


def unstyled(text: str) -> str:
    r"""Return ``text`` without what only sets it in another type: ``\text{}``, ``\mathbf{}``, ``**``."""
    while text != (bare := _STYLE.sub(r"\1", text)):
        text = bare
    return text.replace("**", "").replace("__", "").strip()


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_SIGNS | {0x2044: "/"})
