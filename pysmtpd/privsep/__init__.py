"""The runtime under every process: the only code that owns sockets, descriptors, timers and privileges."""
