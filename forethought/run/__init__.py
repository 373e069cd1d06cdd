"""What is on disk and on screen while a run goes: the run folder, files that survive a kill, metrics, progress."""
