"""`python -m neurogen` is the `neurogen` command."""

from neurogen.cli import main

if __name__ == "__main__":
    main()
