"""Continual training of a funnel: each period is validated, judged, trained, gated and published."""
