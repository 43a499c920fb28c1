"""`python -m helpers`: see helpers/runs/cli.py."""

from helpers.runs.cli import main

if __name__ == "__main__":
    main()
