"""corank beside other libraries: what each reaches, and how fast it trains."""
