"""What the world sends: many hostile inputs of a kind at a time.  Short in CI, whole with `make attack`."""
