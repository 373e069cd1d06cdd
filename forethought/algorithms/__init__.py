"""What the loops of the stages call: pools and preferences, rewards, advantages, objectives, windows.  No files here."""
