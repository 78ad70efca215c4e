"""Store, funnel and HTTP service. No torch."""
