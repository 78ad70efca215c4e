"""The documentation site: hand-written pages of docs/ and a reference that is generated from the code."""
