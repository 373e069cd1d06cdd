"""What the loops of the stages call: pure functions of data and log-probabilities, which load and write nothing."""
