"""``python -m txgraph`` is the command ``txgraph``."""

from txgraph.cli.app import main

if __name__ == "__main__":
    main()
