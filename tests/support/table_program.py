#!/usr/bin/python3
"""A table program as somebody else would write it: it knows smtpd-tables(7) and nothing of ours.

table_program.py KIND [key=value ...]: good, or one that misbehaves when it is asked for the key "trigger".
"""

import os
import sys
import time


def misbehave(kind: str) -> None:
    if kind == "crash":
        os.abort()
    while kind == "hang":
        time.sleep(60)
    while kind == "flood":
        sys.stdout.write("lookup-result|1|found|x" * 1000)
    if kind == "garbage":
        sys.stdout.write("Segmentation fault\n")
        sys.stdout.flush()
        time.sleep(60)


def main() -> None:
    kind, entries = sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])
    if kind == "binary":
        os.write(1, b"\x01\x00\x00\x00\x18\x00\x00\x00" * 2)
        time.sleep(60)
    while sys.stdin.readline() not in ("config|ready\n", ""):
        pass
    for service in ("alias", "domain", "mailaddr", "ready"):
        print(f"register|{service}", flush=True)
    print("ready to serve", file=sys.stderr, flush=True)
    for line in sys.stdin:
        _, _, _, _, operation, service, ident, key = line.rstrip("\n").split("|", 7)
        if key == "trigger":
            misbehave(kind)
        if key not in entries:
            print(f"{operation}-result|{ident}|not-found", flush=True)
        elif operation == "check":
            print(f"{operation}-result|{ident}|found", flush=True)
        else:
            print(f"{operation}-result|{ident}|found|{entries[key]}", flush=True)


main()
