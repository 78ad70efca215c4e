"""The processes of a service: the socket that they listen on, how one ends, and how several are kept running."""
