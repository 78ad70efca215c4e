"""A funnel that goes on learning: period after period validated, judged, trained, gated and published."""
