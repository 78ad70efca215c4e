"""What the weights of networks read, by name, so that they can be found again in a network of other inputs."""
