"""Throughput, latency and memory, compared with a floor or a reference that is measured in the same run."""
