"""Models and text that install as Python packages, for machines that reach no model hub.

:mod:`forethought` works without this package and finds it through :func:`forethought.offline.offline`.  Nothing of the
data packages is ever imported: they are read as files, and checked by SHA-256.
"""

from forethought_offline.catalogue import EMBEDDERS, MODELS, PackagedEmbedder, PackagedModel
from forethought_offline.text import rows

__all__ = ["EMBEDDERS", "MODELS", "PackagedEmbedder", "PackagedModel", "rows"]
