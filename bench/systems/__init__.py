"""One adapter a system: the same few calls, each made the way that system's own documentation makes it."""
