"""What the training loops call: pools and preferences, advantages, windows.  Pure functions of records; no model."""
