"""`python -m corank` is the command line."""

from corank.cli.main import main

main()
