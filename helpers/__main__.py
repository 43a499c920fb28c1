"""`python -m helpers`: see helpers/runs/cli.py."""

import sys

if __name__ == "__main__":
    try:
        from helpers.runs.cli import main
    except ModuleNotFoundError as error:
        sys.exit(
            f"The package {error.name} is missing: `python -m helpers.workshop.doctor` lists all "
            "that are, and `python start.py` installs them."
        )
    main()
