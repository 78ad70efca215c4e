"""Callbacks that record trainings elsewhere: TensorBoard."""
