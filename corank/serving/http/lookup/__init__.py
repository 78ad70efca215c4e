"""Users looked up in a store that may be away or slow, while no request waits long."""
