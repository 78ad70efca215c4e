"""Tables → packed data: the passes of `corank pack`."""
