"""How long a training will take and how much memory, told before anything is packed, without torch."""
