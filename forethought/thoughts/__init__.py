"""Interleaved thoughts: where they stand, who writes them, which ones are kept, and what they look like in a text."""
