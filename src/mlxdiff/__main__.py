"""`python -m mlxdiff` is `mlxdiff`."""

from .cli.app import main

if __name__ == "__main__":
    main()
