"""Which kernels compute what needs no gradient: chosen once for a model and device, verified, and reported."""

from forethought.engine.backends.base import Backend, Decoder, InferenceHead
from forethought.engine.backends.selection import BackendError, Choice, select

__all__ = ["Backend", "BackendError", "Choice", "Decoder", "InferenceHead", "select"]
