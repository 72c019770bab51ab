"""`python -m millet`: the command, where a launcher such as torchrun wants a module."""

from millet.cli.main import main

if __name__ == "__main__":
    main()
