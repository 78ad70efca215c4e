"""The online scorers that corank comes with."""
