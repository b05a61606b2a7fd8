"""Table programs that come with the daemon.  Each is one file with ``main``, run in a process of its own."""
