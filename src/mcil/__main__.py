"""``python -m mcil`` is the ``mcil`` command."""

from mcil.cli import main

if __name__ == "__main__":
    main()
