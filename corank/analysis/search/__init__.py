"""Which settings are best here? Grids of arms, and a search by Optuna, both measured on the validation split."""
