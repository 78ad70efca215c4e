"""Forecasts of a training's time and memory before packing, without torch."""
