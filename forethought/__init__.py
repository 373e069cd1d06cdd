"""forethought: pretraining text as training environments for small language models."""

__version__ = "0.1.0"
