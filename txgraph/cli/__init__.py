"""The command line: ``txgraph COMMAND``, a file for each command."""
