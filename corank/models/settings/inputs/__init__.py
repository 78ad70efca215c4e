"""Settings of how an MLP reads its inputs."""
