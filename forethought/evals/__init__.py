"""What a model is worth: a model and data in, measurements out; no files."""
