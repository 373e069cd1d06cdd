"""Wikitext to clean prose: paragraphs separated by blank lines, without headings, lists, tables or markup.

What cannot be rendered (a formula, an unknown template) becomes a hole.  A parenthesis with a hole is
removed, a paragraph with a hole is dropped and counted: a sentence that lost a word is worse than none.
"""

from __future__ import annotations

import html
import re

HOLE = "\0"

_SKIPPED_SECTIONS = {
    *("references", "external links", "see also", "further reading", "notes", "bibliography", "footnotes"),
    *("sources", "citations", "notes and references", "works cited", "discography", "filmography", "gallery"),
}
_SILENT = re.compile(
    r"cit(e|ation)\b|vcite|harv|sfn|efn|refn|reflist|ref(begin|end)|rp$|note|fact|clarify|who\b|when\b|which|by whom|"
    r"why\b|dead link|page needed|wayback|dubious|verif|failed|pp-|use \w+ \w+|main\b|see also|further|about|other|"
    r"redirect|infobox|taxobox|clear|anchor|portal|commons|toc|unref|refimprove|expand|disputed|update|"
    r"flagicon|featured|good article|specify|vague|original research|citation|better|not in|according|br$|-$|won\b"
)
_LAST_ARGUMENT = re.compile(r"(lang|transl|nowrap|small|smaller|big|sc|nobold|abbr|angbr|keypress|color|tooltip|flag)$")
_LITERAL = {
    **{"'": "'", "'s": "'s", "nbsp": " ", "spaces": " ", "ndash": "–", "snd": " – ", "spaced ndash": " – "},
    **{"mdash": "—", "pipe": "|", "!": "|", "·": " · ", "=": "="},
}
_UNITS = {
    **{"m": "metres", "km": "kilometres", "cm": "centimetres", "mm": "millimetres", "mi": "miles", "ft": "feet"},
    **{"in": "inches", "yd": "yards", "km2": "square kilometres", "sqkm": "square kilometres", "kg": "kilograms"},
    **{"sqmi": "square miles", "ha": "hectares", "acre": "acres", "acres": "acres", "lb": "pounds", "g": "grams"},
    **{"C": "°C", "F": "°F", "mph": "miles per hour", "km/h": "kilometres per hour", "L": "litres", "t": "tonnes"},
    **{"nmi": "nautical miles", "miles": "miles", "LT": "long tons", "ST": "short tons", "oz": "ounces"},
}
_SUPERSCRIPT = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
_SUBSCRIPT = str.maketrans("0123456789+-−n", "₀₁₂₃₄₅₆₇₈₉₊₋₋ₙ")

_INVISIBLE = re.compile(
    r"<!--.*?-->|<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>|<(gallery|timeline|source|references|imagemap)\b[^<>]*>.*?</\1\s*>"
    r"|__[A-Z]+__",
    re.DOTALL | re.IGNORECASE,
)
_FORMULA = re.compile(r"<(math|chem|code|score)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_TABLE = re.compile(r"^[ :]*\{\|(?:(?!^[ :]*\{\|).)*?^[ :]*\|\}", re.DOTALL | re.MULTILINE)
_EXTERNAL = re.compile(r"(?<!\[)\[(?:https?:|ftp:|mailto:)?//[^\s\]]*\s*([^\]\n]*)\]")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_NOT_TEXT = re.compile(r"\s*(file|image|category|media|[a-z]{2,3}|[a-z]{2,3}-[a-z]+)\s*:", re.IGNORECASE)
_SCRIPT = re.compile(r"<(su[bp])\b[^<>]*>(.*?)</\1\s*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_HEADING = re.compile(r"(=+)\s*(.*?)\s*\1\s*$")
_EMPTIED = re.compile(r"(?<!\w)\(([^()]*\0[^()]*|[\s,;:/–-]*)\)")
_RESIDUE = re.compile(r"\0|\[\[|\]\]|\{|\}|\|\||</?[a-zA-Z]|https?:|\b(thumb|right|left)\|")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*$")


def clean(source: str) -> tuple[str, int]:
    """Return the prose of a wikitext page and the number of paragraphs that were dropped for holes in them."""
    text = _INVISIBLE.sub("", source)
    text = _FORMULA.sub(HOLE, text)
    text = _until_stable(text)
    text = _SCRIPT.sub(_render_script, text)
    kept: list[str] = []
    dropped = 0
    for block in _paragraphs(text):
        paragraph = _tidy(block)
        if len(paragraph) < 40 or not _SENTENCE_END.search(paragraph):
            continue
        if _RESIDUE.search(paragraph):
            dropped += 1
        else:
            kept.append(paragraph)
    return "\n\n".join(kept), dropped


def _until_stable(text: str) -> str:
    """Resolve templates, tables and links from the innermost outwards."""
    while True:
        before = text
        text = _TEMPLATE.sub(_render_template, text)
        text = _TABLE.sub("", text)
        text = _EXTERNAL.sub(r"\1", text)
        text = _LINK.sub(_render_link, text)
        if text == before:
            return text


def _render_template(match: re.Match[str]) -> str:
    name, *arguments = (part.strip() for part in match[1].split("|"))
    name = name.lower()
    if name in _LITERAL:
        return _LITERAL[name]
    positional = [argument for argument in arguments if not re.match(r"[\w ]+=", argument)]
    if name in ("convert", "cvt"):
        return _render_quantity(positional)
    if name == "as of" and positional:
        return ("as of " if "lc=y" in arguments else "As of ") + positional[0]
    if name in ("nihongo", "vanchor", "visible anchor") and positional:
        return positional[0]
    if _LAST_ARGUMENT.match(name) and positional:
        return positional[-1]
    return "" if _SILENT.match(name) else HOLE


def _render_quantity(arguments: list[str]) -> str:
    """``100|km|mi`` -> ``100 kilometres``; ``5|-|10|ft|m`` -> ``5–10 feet``."""
    number = arguments[0] if arguments else ""
    rest = arguments[1:]
    if len(rest) >= 3 and rest[0] in ("-", "–", "to", "and", "x", "by", "or"):
        number += rest[0].replace("-", "–") + rest[1] if rest[0] in "-–" else f" {rest[0]} {rest[1]}"
        rest = rest[2:]
    unit = _UNITS.get(rest[0]) if rest else None
    return f"{number} {unit}" if unit and number else HOLE


def _render_link(match: re.Match[str]) -> str:
    if _NOT_TEXT.match(match[1]):
        return ""
    target, *labels = match[1].split("|")
    return labels[-1] if labels and labels[-1] else re.sub(r"^\s*:?[A-Za-z]+:(?=\S)", "", target)


def _render_script(match: re.Match[str]) -> str:
    table = _SUPERSCRIPT if match[1].lower() == "sup" else _SUBSCRIPT
    body = match[2].strip()
    if all(ord(character) in table for character in body):
        return body.translate(table)
    return body if body.isalpha() and match[1].lower() == "sup" and body in ("st", "nd", "rd", "th") else HOLE


def _paragraphs(text: str) -> list[str]:
    """Split into paragraphs, without headings, lists, preformatted lines and sections that are lists of sources."""
    blocks: list[list[str]] = [[]]
    skipped_level = 0
    for line in text.split("\n"):
        heading = _HEADING.match(line)
        if heading:
            level, title = len(heading[1]), heading[2].lower()
            if not skipped_level or level <= skipped_level:
                skipped_level = level if title in _SKIPPED_SECTIONS else 0
            blocks.append([])
        elif not line.strip(" \0\t") or line[0] in "*#;:|! ":
            blocks.append([])
        elif not skipped_level:
            blocks[-1].append(line)
    return [" ".join(block) for block in blocks if block]


def _tidy(text: str) -> str:
    text = re.sub(r"<br\b[^<>]*>", " ", text, flags=re.IGNORECASE)
    text = html.unescape(_TAG.sub("", text))
    text = re.sub(r"(?<=\w)'''(?=s\b)", "'", text)
    text = re.sub(r"'{2,5}", "", text)
    text = re.sub(r"[\s\u200b]+", " ", text)
    for _ in range(3):
        text = _EMPTIED.sub("", text)
    text = re.sub(r"\(\s*[,;:]\s*", "(", text)
    text = re.sub(r"[\s,;]*[,;]\s*\)", ")", text)
    text = re.sub(r"\s+([,;:.)])(?=\s|[,;:.)]|$)", r"\1", text)
    text = re.sub(r"\(\s+", "(", text)
    text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
    return re.sub(r" {2,}", " ", text).strip()
