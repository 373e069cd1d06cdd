"""What one takes away from a run: a model folder, data sets, and a look at what two arms write."""
