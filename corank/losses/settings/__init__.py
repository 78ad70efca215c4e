"""Settings of losses: one file per loss, without torch, which the formula loads."""
