"""One file per stage, and in it one plain loop; stages meet on disk and never import each other."""
