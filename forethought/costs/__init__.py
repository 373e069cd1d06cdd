"""What each stage will compute, from its config alone: one small pure function a stage; nothing is measured or loaded.

Lengths are typical ones where the config only bounds them.  What was assumed stands in the constants beside its use.
"""

from forethought.costs.base import Cost, Phase, Setting, UnknownError

__all__ = ["Cost", "Phase", "Setting", "UnknownError"]
