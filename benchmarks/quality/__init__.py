"""How good the models are, beside references that are fitted on the same rows."""
