"""What all sections of a config share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
USER_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
UserPath = Annotated[str, Field(pattern=USER_PATH)]
"""`module:function`: code of the user's own."""


@dataclass(frozen=True)
class OneOf(AfterValidator):
    """One of some names, or the `module:function` of the user's own."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "func", self._check)

    def _check(self, value: str) -> str:
        if value not in self.names and re.fullmatch(USER_PATH, value) is None:
            raise ValueError(f"must be one of {', '.join(self.names)}, or the module:function of your own")
        return value


class ConfigError(ValueError):
    """A config that is not valid; the message names the key, the value and the way out."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings under fields become help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
