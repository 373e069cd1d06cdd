"""What all sections of a config share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ConfigError(ValueError):
    """A config that is not valid; the message names the key, the value and the way out."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings under fields become help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
