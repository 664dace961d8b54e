"""``python -m scalespace`` is ``scalespace``."""

from scalespace.cli import main

if __name__ == "__main__":
    main()
