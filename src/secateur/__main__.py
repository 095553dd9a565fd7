"""`python -m secateur` is `secateur`."""

from secateur.cli import main

if __name__ == "__main__":
    main()
