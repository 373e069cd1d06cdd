"""Which kernels compute what needs no gradient: chosen once for a model and device, verified, and reported."""

from forethought.engine.backends.plain import TorchBackend
from forethought.engine.backends.selection import BackendError, Choice, select

__all__ = ["BackendError", "Choice", "TorchBackend", "select"]
