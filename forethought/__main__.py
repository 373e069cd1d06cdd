"""``python -m forethought``: the command line, wherever the ``forethought`` command is not on the path."""

from forethought.cli.app import main

if __name__ == "__main__":
    main()
