"""Boosted trees as a network: what they read, how they add up, and their operator of ONNX."""
