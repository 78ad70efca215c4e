"""Throughput, latency and memory, beside a floor or a reference that is measured in the same run."""
