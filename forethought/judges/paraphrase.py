"""Paraphrases by rule, for the audit of match judges: other words, another order, the same names and numbers.

A language model writes better ones, but an audit must not need one, and must say the same in every run.  What these are
worth is compared with a model's in docs/log.md.
"""

from __future__ import annotations

import re

FEWEST = 2
"""Changes below which a text counts as not paraphrased."""

_PHRASES = """
such as = like | as well as = and also | in order to = to | due to = because of | known as = called
is considered to be = is thought to be | is considered = is regarded as | are considered = are regarded as
a number of = several | a variety of = different | in addition to = besides | in addition = also
because of = owing to | according to = in the words of | more than = over | less than = under
at least = no fewer than | the majority of = most of | most of = the larger part of | one of the = among the
instead of = rather than | refers to = means | consists of = is made up of | consist of = are made up of
based on = founded on | for example = for instance | used to = employed to | used in = employed in
used for = employed for | there are = there exist | there is = there exists | it is = it's | does not = doesn't
do not = don't | did not = didn't | is not = isn't | are not = aren't | was not = wasn't | were not = weren't
cannot = can't
"""

_WORDS = """
large = big | largest = biggest | larger = bigger | small = little | smallest = littlest | smaller = lesser
many = numerous | several = various | various = different | different = distinct | important = significant
significant = important | main = chief | major = principal | primary = chief | common = widespread
commonly = usually | usually = generally | generally = usually | often = frequently | typically = usually
approximately = about | about = roughly | around = about | roughly = about | nearly = almost | almost = nearly
also = too | however = yet | although = though | though = although | while = whereas | because = since
therefore = thus | including = among them | includes = contains | include = contain | included = contained
began = started | begins = starts | begin = start | started = began | ended = finished | built = constructed
created = made | made = produced | produced = made | make = produce | located = situated | situated = located
called = named | named = called | became = turned into | become = turn into | becomes = turns into
shows = displays | showed = displayed | used = employed | uses = employs | use = employ | discovered = found
wrote = penned | written = penned | says = states | said = stated | stated = said | died = passed away
lived = resided | lives = resides | live = reside | grew = rose | grow = increase | increased = grew
increase = growth | decreased = fell | received = got | gave = granted | given = granted | held = kept
led = headed | won = gained | moved = relocated | helped = aided | help = aid | helps = aids
caused = brought about | cause = bring about | causes = brings about | allowed = let | allows = lets
allow = let | required = needed | requires = needs | require = need | described = portrayed
describes = portrays | developed = evolved | establish = found | established = founded | founded = established
formed = shaped | area = region | areas = regions | region = area | regions = areas | city = town
cities = towns | country = nation | countries = nations | nation = country | individuals = persons
period = era | era = period | type = kind | types = kinds | kind = type | way = manner | ways = manners
method = technique | methods = techniques | process = procedure | system = arrangement | systems = arrangements
group = set | groups = sets | example = instance | purpose = aim | result = outcome | results = outcomes
effect = impact | effects = impacts | beginning = start | entire = whole | whole = entire | first = earliest
last = final | final = last | early = initial | modern = contemporary | ancient = very old | strong = powerful
powerful = strong | popular = well-liked | famous = well-known | best-known = most famous | wide = broad
long = lengthy | rich = wealthy | quickly = fast | mainly = chiefly | primarily = mainly
especially = particularly | particularly = especially | only = solely | later = afterwards | before = prior to
after = following | during = in the course of | between = in between | within = inside | near = close to
across = throughout | throughout = across | through = by way of | among = amid | until = up to | both = the two
"""


def _table(text: str) -> dict[str, str]:
    rows = (row.split(" = ") for line in text.strip().splitlines() for row in line.split(" | "))
    return {old.strip(): new.strip() for old, new in rows}


REPLACED = _table(_PHRASES) | _table(_WORDS)
"""Lower-case words and phrases, and what stands for them."""

# The longest first: "is considered to be" before "is considered".
_KNOWN = re.compile(
    r"\b(?:" + "|".join(map(re.escape, sorted(REPLACED, key=len, reverse=True))) + r")\b", re.IGNORECASE
)
_PAIR = re.compile(r"\b([a-z]{3,}) (and|or) ([a-z]{3,})\b(?! (?:and|or)\b)")


def paraphrased(text: str) -> str | None:
    """Return ``text`` in other words; ``None`` if fewer than :data:`FEWEST` places could be changed.

    Known words and phrases give way to others of like meaning, and both sides of a lower-case "a and b" change places.
    Capitalised words inside a sentence, which may be names, and numbers stay as they are.
    """
    changes = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal changes
        old = match.group()
        begins = not text[: match.start()].rstrip() or text[: match.start()].rstrip()[-1] in ".!?:\n"
        if old != old.lower() and not begins:
            return old
        changes += 1
        new = REPLACED[old.lower()]
        return new[0].upper() + new[1:] if old[0].isupper() else new

    def turn(match: re.Match[str]) -> str:
        nonlocal changes
        changes += 1
        return f"{match.group(3)} {match.group(2)} {match.group(1)}"

    other = _PAIR.sub(turn, _KNOWN.sub(replace, text))
    return other if changes >= FEWEST else None
