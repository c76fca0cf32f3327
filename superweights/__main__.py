"""`python -m superweights`."""

from superweights.cli import main

if __name__ == "__main__":
    main()
