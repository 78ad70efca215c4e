"""Settings of networks: one file per stage model or part of one, without torch, which `build` loads."""
