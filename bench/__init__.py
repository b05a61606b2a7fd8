"""End-to-end benchmark: messages in by SMTP, relayed out by SMTP, against Postfix and OpenSMTPD on the same machine.

``make bench``, or ``python -m bench --help``.  See docs/hacking.md for how to read its figures.
"""
