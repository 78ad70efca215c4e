"""What a config says of networks: a file a stage model or a part of one, without torch, which `build` loads."""
