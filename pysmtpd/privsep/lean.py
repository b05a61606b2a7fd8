"""Imported before anything else where a process that lasts begins: keeps the standard library's ssl out of it.

asyncio and dnspython import ssl when they can and do without when they cannot.  Nothing of ours uses it (TLS is
privsep.tls), and it costs each process 1.5 MB and a second copy of OpenSSL's code to attack.
"""

import sys

sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
