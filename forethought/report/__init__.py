"""Views of a run: tables in the terminal, and the page; they read measurements and need no torch."""
