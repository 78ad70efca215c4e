"""Code that runs in the environment of the other libraries: without corank, on the rows that `export.py` wrote."""
