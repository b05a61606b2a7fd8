"""Collects OpenSMTPD 7.8's verdicts on cases, and shows where ours differ.  No test: it needs root and an OpenSMTPD.

    python -m tests.lookup.opensmtpd --smtpd FILE --smtpctl FILE --spool DIR --run DIR [--cases N] [--odd 0.1]
        [--out FILE] [--keep DIR]

smtpd and smtpctl are configured with those directories as their queue and socket paths, and with table-db.  They run
in namespaces of their own: no network but loopback, and neither their users nor their files are seen by anybody else.
tests/lookup/table-plain and table-sqlite have to be in the directory for table programs.
"""

import argparse
import contextlib
import json
import os
import shutil
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pysmtpd.lookup.expand import explain
from tests.lookup.cases import UIDS, USERS, Writer
from tests.lookup.judged import HOSTNAME, Judge, make_sqlite
from tests.lookup.walked import Verdict

WAIT = 10.0                        # seconds for the daemon to come up, and for each reply
IMSG_CTL_SMTP_SESSION, IMSG_VERSION = 35, 16
_MBOXFILE = "/mail.mboxfile -f %{mbox.from} "


def prepare(args: argparse.Namespace, top: Path) -> None:
    """Once, in the namespaces: this machine is only known by what is written here."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", HOSTNAME], check=True)
    hosts = "127.0.0.1 localhost\n::1 localhost\n127.0.0.2 client.far.example\n127.0.0.4 h.sub.example.org\n"
    (top / "hosts").write_text(hosts)
    (top / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    users = "".join(f"{name}:x:{uid}:{uid}::{top}/d/home/{name}:/bin/sh\n"
                    for name, uid in UIDS.items() if name in USERS)
    # Its own users, whatever their names are; a user of this machine is none of a case.
    kept = [line for line in Path("/etc/passwd").read_text().splitlines() if line.startswith(args.users)]
    (top / "passwd").write_text(users + "\n".join(kept) + "\n")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-subj", f"/CN={HOSTNAME}", "-keyout", top / "mx.key", "-out", top / "mx.crt"], check=True,
                   capture_output=True)
    for directory in ("spool", "run"):
        (top / directory).mkdir()
        subprocess.run(["mount", "--bind", top / directory, getattr(args, directory)], check=True)
    for name in ("hosts", "resolv.conf", "passwd"):
        subprocess.run(["mount", "--bind", top / name, f"/etc/{name}"], check=True)


def collect(case: dict[str, Any], args: argparse.Namespace, top: Path) -> list[list[Verdict]]:
    """What OpenSMTPD makes of a case."""
    directory = top / "d"
    for old in (directory, *(top / "spool").iterdir()):
        shutil.rmtree(old, ignore_errors=True)
    os.chmod(args.spool, 0o711)
    os.chmod(top, 0o755)
    directory.mkdir()
    for user, uid in UIDS.items():
        home = directory / "home" / user
        home.mkdir(parents=True)
        os.chown(home, uid, uid)
    for name, text in case["files"].items():
        path = directory / name
        path.write_text(text.replace("@D@", str(directory)))
        if path.name == ".forward":
            os.chown(path, path.parent.stat().st_uid, 0)
        if f"sqlite:@D@/{name}.sqlite.conf\n" in case["conf"]:
            make_sqlite(path.read_text(), directory / f"{name}.sqlite")
        if f"db:@D@/{name}.db\n" in case["conf"]:
            listed = text.startswith("# a list")
            subprocess.run(["makemap", *(["-t", "set"] if listed else []), "-o", f"{path}.db", path], check=True,
                           executable=args.smtpctl, group="mail", timeout=WAIT, stdout=subprocess.DEVNULL)
    for name in ("mx.crt", "mx.key"):
        shutil.copy(top / name, directory / name)
        os.chmod(directory / name, 0o600)
    (directory / "smtpd.conf").write_text(case["conf"].replace("@D@", str(directory)))
    with (top / "log").open("wb") as log:
        daemon = subprocess.Popen([args.smtpd, "-d", "-P", "mta", "-P", "mda", "-f", directory / "smtpd.conf"],
                                  stdout=log, stderr=log)
    try:
        return [ask(session, top, daemon) for session in case["sessions"]]
    finally:
        daemon.terminate()
        daemon.wait(WAIT)
        (Path(args.run) / "smtpd.sock").unlink(missing_ok=True)


def ask(session: dict[str, Any], top: Path, daemon: subprocess.Popen[bytes]) -> list[Verdict]:
    smtp, known = connect(session, top, daemon), set(stored(top))
    smtp.ehlo(session["helo"])
    if session["tls"]:
        smtp.starttls(context=ssl._create_unverified_context())
        smtp.ehlo(session["helo"])
    if session["username"]:
        smtp.login(session["username"], "secret")
    code, text = smtp.docmd("MAIL", f"FROM:<{session['sender']}>")
    if code != 250:
        return [(f"{code} {text!r}", []) for _ in session["rcpts"]]
    replies = []
    for rcpt in session["rcpts"]:
        code, text = smtp.docmd("RCPT", f"TO:<{rcpt}>")
        replies.append(f"{code} {text.decode()}")
    if any(reply.startswith("250") for reply in replies):
        code, text = smtp.data(b"Subject: x\r\n\r\nx\r\n")
        assert code == 250, text
    smtp.quit()
    found: dict[str, list[tuple[str, ...]]] = {}
    for path in stored(top):
        if path not in known:
            rcpt, ends = envelope(path.read_text(), str(top / "d"))
            found.setdefault(rcpt.lower(), []).append(ends)
    return [("250", sorted(found.get(rcpt.lower(), []))) if reply.startswith("250") else (reply, [])
            for rcpt, reply in zip(session["rcpts"], replies, strict=True)]


def connect(session: dict[str, Any], top: Path, daemon: subprocess.Popen[bytes]) -> smtplib.SMTP:
    host = "::1" if ":" in session["source"] else "127.0.0.1"
    until = time.monotonic() + WAIT
    while True:
        try:
            if session["source"] == "local":
                return Submission(top)
            return smtplib.SMTP(host, session["port"], timeout=WAIT, source_address=(session["source"], 0))
        except (ConnectionRefusedError, FileNotFoundError):
            if daemon.poll() is not None or time.monotonic() > until:
                raise RuntimeError((top / "log").read_text()) from None
            time.sleep(0.02)


class Submission(smtplib.SMTP):
    """A session through the control socket, as sendmail has one."""

    def __init__(self, top: Path) -> None:
        super().__init__(timeout=WAIT)
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(WAIT)
            control.connect(str(top / "run" / "smtpd.sock"))
            control.sendall(struct.pack("=4I", IMSG_CTL_SMTP_SESSION, 16, IMSG_VERSION, os.getpid()))
            _, fds, _, _ = socket.recv_fds(control, 16, 1)
        self.sock = socket.socket(fileno=fds[0])
        self.sock.settimeout(WAIT)
        self.getreply()


def stored(top: Path) -> list[Path]:
    """The envelopes in the spool: queue/ab/abcdef01/abcdef0123456789."""
    return [path for path in (top / "spool" / "queue").glob("*/*/*") if len(path.name) == 16]


def envelope(text: str, directory: str) -> tuple[str, tuple[str, ...]]:
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    command = fields.get("mda-exec", "")
    if _MBOXFILE in command:
        command = command.partition(_MBOXFILE)[2]
    elif command:
        command = f"|{command}"
    user = fields.get("mda-user", "")
    return fields["rcpt"], (fields["type"], fields["dest"].lower(), user, fields["dispatcher"],
                            command.replace(directory, "@D@"), fields.get("mda-subaddress", ""))


def printed(case: dict[str, Any]) -> str:
    """A case with its verdicts, a line for each of its parts."""
    sessions = ",\n  ".join(map(json.dumps, case["sessions"]))
    verdicts = ",\n  ".join(json.dumps(one) for one in case["verdicts"])
    files = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(text)}" for name, text in case["files"].items())
    conf = ",\n  ".join(map(json.dumps, case["conf"].splitlines(keepends=True)))
    return (f'{{"conf": [\n  {conf}],\n "files": {{\n  {files}}},\n "users": {json.dumps(case["users"])},\n'
            f' "now": {case["now"]}, "sessions": [\n  {sessions}],\n "verdicts": [\n  {verdicts}]}}\n')


def main(args: argparse.Namespace) -> None:
    recipients, rows = 0, Counter[str]()
    with tempfile.TemporaryDirectory(prefix="differential.") as name, contextlib.ExitStack() as stack:
        top = Path(name)
        prepare(args, top)
        out = stack.enter_context(open(args.out, "w")) if args.out else sys.stdout
        for seed in range(args.first, args.first + args.cases):
            case = Writer(seed, odd=args.odd, now=int(time.time())).case(args.recipients)
            try:
                theirs = collect(case, args, top)
            except (RuntimeError, smtplib.SMTPException, OSError, subprocess.CalledProcessError) as error:
                print(json.dumps({"seed": seed, "failed": f"{error!r}\n{(top / 'log').read_text()}"}), file=out)
                continue
            case["verdicts"], judge, strange = [], Judge(case, top / "d"), 0
            for session, there in zip(case["sessions"], theirs, strict=True):
                verdicts: list[Any] = []
                for rcpt, one in zip(session["rcpts"], there, strict=True):
                    recipients += 1
                    ours, book = judge.judge(session, rcpt), judge.foretold(session, rcpt, one)
                    foretold = (one, ours.verdict) == (book.there, book.here)
                    if one == ours.verdict and foretold:
                        verdicts.append(one)
                        continue
                    row = " + ".join(book.rows) if foretold else ""
                    strange += not row
                    rows[row] += 1
                    verdicts.append((*one, row, *ours.verdict))
                    tree = [] if row else explain(ours.expanded.root, judge.expander.ruleset)
                    if row:
                        continue
                    print(json.dumps({"seed": seed, "row": row, "rcpt": rcpt, "from": session["source"],
                                      "tag": session["tag"], "sender": session["sender"], "helo": session["helo"],
                                      "there": one, "book there": book.there, "here": ours.verdict,
                                      "book here": book.here, "tree": tree}), file=out)
                case["verdicts"].append(verdicts)
            if args.keep and not strange:
                Path(args.keep, f"{seed}.json").write_text(printed(case))
    print(f"{args.cases} cases, {recipients} recipients, {rows.total()} differ", file=sys.stderr)
    for row, count in rows.most_common():
        print(f"{count:6} {row or 'NO ROW'}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--smtpd", "--smtpctl", "--spool", "--run"):
        parser.add_argument(option, required=True)
    parser.add_argument("--users", type=lambda text: tuple(f"{name}:" for name in text.split(",")),
                        default=("nobody:", "mail:"), help="those it runs as")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--recipients", type=int, default=25)
    parser.add_argument("--odd", type=float, default=0.1)
    parser.add_argument("--out")
    parser.add_argument("--keep", help="a directory for the cases with their verdicts")
    if os.environ.get("DIFFERENTIAL") is None:
        os.environ["DIFFERENTIAL"] = "1"
        os.execvp("unshare", ["unshare", "-m", "-n", "-u", "-p", "-f", "--mount-proc", "--kill-child", sys.executable,
                              "-m", "tests.lookup.opensmtpd", *sys.argv[1:]])
    main(parser.parse_args())
