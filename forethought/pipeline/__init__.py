"""Runs the graph of stages; nothing below imports it."""
