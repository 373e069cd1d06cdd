"""What all sections of a config share."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

T = TypeVar("T")

LARGEST = 10**9
"""The largest count: of steps, of rows, of characters."""
Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
Positive = Annotated[int, Field(strict=True, gt=0, le=LARGEST)]
Length = Annotated[int, Field(strict=True, gt=0, le=1_000_000)]
"""Tokens of one text."""
Repeats = Annotated[int, Field(strict=True, gt=0, le=10_000)]
"""How often something is done for one prefix, question or window."""
Retries = Annotated[int, Field(strict=True, ge=0, le=100)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=True)]
"""A finite number: :class:`Section` refuses the others."""
Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(strict=True, gt=0.0, le=1.0)]
Weight = Annotated[float, Field(strict=True, ge=0.0, le=1e6)]
"""A factor of something that is added."""
Temperature = Annotated[float, Field(strict=True, ge=0.01, le=100.0)]
"""Below the least of it, logits divided by it are not finite."""
USER_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
USER_CODE = re.compile(USER_PATH)
UserPath = Annotated[str, Field(pattern=USER_PATH)]
"""`module:function`: code of the user's own."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return `` Did you mean ...?`` with the one of ``known`` that ``name`` resembles most; empty if none does."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return f" Did you mean {by_lower[close[0]]}?" if close else ""


def _or_zero(value: float, check: ValidatorFunctionWrapHandler) -> float:
    return 0.0 if type(value) in (int, float) and value == 0 else check(value)


OrGreedy = Annotated[Temperature, WrapValidator(_or_zero)]
"""A temperature, or 0: the likeliest token."""


def _written(value: str) -> str:
    # No control characters, and no halves of a character, which JSON can spell.
    if not value.strip() or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        raise ValueError("must be text on one line, and not empty")
    return value


Line = Annotated[str, AfterValidator(_written)]
"""A path, a name or a sentence."""


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]} stands there twice: name each once")
    return values


Distinct = AfterValidator(_distinct)
"""Of a list: nothing stands in it twice."""


def _named(value: str) -> str:
    if re.fullmatch(r"\w[\w. +-]{0,63}", value) is None:
        raise ValueError("a name has at most 64 letters, digits, spaces and . _ + - and begins with a letter or digit")
    return value


Name = Annotated[str, AfterValidator(_named)]
"""What something is called in a table; folders, files and columns are named after it."""
Options = dict[str, JsonValue]
"""Keyword arguments of the user's own code; they are kept as JSON."""


@dataclass(frozen=True)
class OneOf(AfterValidator):
    """One of some names, or the `module:function` of the user's own."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "func", self._check)

    def _check(self, value: str) -> str:
        if value not in self.names and USER_CODE.fullmatch(value) is None:
            guess = did_you_mean(value, self.names)
            raise ValueError(f"must be one of {', '.join(self.names)}, or the module:function of your own.{guess}")
        return value


class ConfigError(ValueError):
    """A config that is not valid; the message names the key, the value and the way out."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, finite numbers, docstrings under fields become help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
