"""Pieces of which every stage puts its cost together; see :meth:`forethought.stages.base.Stage.cost`."""
