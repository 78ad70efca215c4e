"""What the functions of corank return: tables as frames, plots as figures, JSON, and how a notebook shows them."""
