"""Text to chunks: sources, filters, and cuts that are exact in characters and in tokens."""
