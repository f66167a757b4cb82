"""`python -m didsim COMMAND`, by which launchers of several processes call the command line."""

from didsim.cli import main

if __name__ == "__main__":
    main()
