"""``python -m raydrop`` is the command line."""

from raydrop.cli import main

if __name__ == "__main__":
    main()
