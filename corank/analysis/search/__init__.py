"""Searches for the best settings: grids of arms, and a search by Optuna, both measured on the validation split."""
