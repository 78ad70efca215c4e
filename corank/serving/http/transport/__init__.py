"""HTTP by plain ASGI: a request, its body within limits, a reply, and the table of paths."""
