"""Reasoning benchmarks for base models: tasks, grading, the loop, and the figures."""
