"""The simulated news world, and the layouts of public news logs that it can be written in."""
