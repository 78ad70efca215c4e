"""The kinds of features that corank comes with, a file each. All register in `FEATURE_KINDS`."""
