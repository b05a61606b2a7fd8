"""Relaying, for mta only: what goes where, over which connections, and what became of it.  No I/O.

The process mta is the shell around a TransferAgent: it gives the time, dials, and carries messages (see shell.py).
"""
