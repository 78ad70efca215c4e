"""One request through the stages of a bundle."""
