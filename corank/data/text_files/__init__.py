"""CSV files: what of them is no text, and which line does not fit."""
