"""Histories whose events are listed, in columns or in tables of their own: what packing makes of them."""
