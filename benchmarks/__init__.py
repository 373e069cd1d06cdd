"""Benchmarks of the engine against its peers: ``python -m benchmarks``.

Each benchmark checks first that both sides compute the same, then times them in turn on the same model, dtype,
prompts and lengths.  Rows go to ``docs/benchmarks.json``; ``docs/benchmarks.md`` is rendered from them.
"""
