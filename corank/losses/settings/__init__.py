"""What a config says of losses: a file a loss, without torch, which the formula loads."""
