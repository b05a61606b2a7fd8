"""What the smtp process has around its sessions: their sockets, and connections that have no session yet."""
