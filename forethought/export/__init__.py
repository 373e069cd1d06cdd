"""What leaves a run: model folders and data sets that need nothing of this package, and texts of its arms."""
