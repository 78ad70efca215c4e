"""What whoever runs a service sees and bounds: the access log, traces, rates of requests."""
