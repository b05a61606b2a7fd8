"""The privilege table: which processes there are, as whom they run, where, and with whom they speak.

This is the only declaration of these facts.  parent.py makes the socketpairs from it, privsep/jail.py
obeys it, tests compare it with the routes of messages.py, with every module's imports and with
/proc/PID/status, and docs/privsep.md is printed from it.
"""

import enum
from typing import NamedTuple


class Route(NamedTuple):
    """Who may send a message to whom: ``Proc.SMTP >> Proc.QUEUE``."""

    src: "Proc"
    dst: "Proc"

    def __str__(self) -> str:
        return f"{self.src.value} >> {self.dst.value}"


class Proc(enum.Enum):
    """A kind of process; its value is its name in titles, logs and errors."""

    PARENT = "parent"
    CONF = "conf"
    CONTROL = "control"
    LKA = "lka"
    QUEUE = "queue"
    SCHEDULER = "scheduler"
    SMTP = "smtp"
    MTA = "mta"
    MDA = "mda"
    WORKER = "worker"
    CLIENT = "client"
    AUTH = "auth"
    HOME = "home"

    def __rshift__(self, other: "Proc") -> Route:
        return Route(self, other)


class User(enum.Enum):
    """Whom a process becomes."""

    ROOT = "root"
    SMTPD = "_smtpd"
    SMTPQ = "_smtpq"
    RECIPIENT = "the recipient"
    CALLER = "the caller"


class Jail(enum.Enum):
    """The directory that becomes a process's root."""

    NONE = "none"
    EMPTY = "an empty directory"
    SPOOL = "the spool"


class Role(NamedTuple):
    """One row of the table."""

    proc: Proc
    user: User
    jail: Jail
    peers: frozenset[Proc]
    packages: frozenset[str]
    secrets: frozenset[str]
    job: str


def _role(proc: Proc, user: User, jail: Jail, peers: str, packages: str, secrets: str, job: str) -> Role:
    return Role(
        proc,
        user,
        jail,
        frozenset(Proc(name) for name in peers.split()),
        frozenset(packages.split()),
        frozenset(secrets.split()),
        job,
    )


# Every process may import base, imsg, messages, conf.config and privsep; "packages" is what it may
# import besides.  "secrets" names the kinds of secret it may ever hold in memory.
PROCS: dict[Proc, Role] = {
    role.proc: role
    for role in (
        _role(Proc.PARENT, User.ROOT, Jail.NONE, "conf control lka queue scheduler smtp mta mda home", "", "",
              "starts and reaps; listens, opens keys, starts deliveries as a user"),
        _role(Proc.CONF, User.ROOT, Jail.NONE, "parent control lka queue scheduler smtp mta mda", "conf",
              "keys credentials srs queue",
              "reads smtpd.conf, hands each process its view, and leaves"),
        _role(Proc.CONTROL, User.SMTPD, Jail.EMPTY, "parent conf client lka queue scheduler smtp mta mda", "", "",
              "the control socket; every smtpctl is an untrusted client"),
        _role(Proc.LKA, User.SMTPD, Jail.NONE, "parent conf control queue smtp mta auth", "lookup session",
              "credentials srs",
              "answers questions: rules, tables, credentials, DNS"),
        _role(Proc.QUEUE, User.SMTPQ, Jail.SPOOL, "parent conf control lka scheduler smtp mta mda", "spool", "queue",
              "the only process that touches the spool"),
        _role(Proc.SCHEDULER, User.SMTPD, Jail.EMPTY, "parent conf control queue", "sched", "",
              "decides what is due; keeps nothing on disk"),
        _role(Proc.SMTP, User.SMTPD, Jail.EMPTY, "parent conf control lka queue", "session inbound", "keys",
              "listeners and inbound sessions"),
        _role(Proc.MTA, User.SMTPD, Jail.EMPTY, "parent conf control lka queue", "session relay",
              "keys credentials",
              "outbound sessions"),
        _role(Proc.MDA, User.SMTPD, Jail.EMPTY, "parent conf control queue worker", "deliver", "",
              "local deliveries, by workers"),
        _role(Proc.WORKER, User.RECIPIENT, Jail.NONE, "mda", "deliver session", "",
              "one user's deliveries; a hostile peer by definition"),
        _role(Proc.AUTH, User.ROOT, Jail.NONE, "lka", "lookup", "credentials",
              "checks one password of a system user, and leaves"),
        _role(Proc.HOME, User.ROOT, Jail.NONE, "parent", "", "",
              "goes for the parent where one may hang: asks who users are, opens .forward, makes mailboxes"),
        _role(Proc.CLIENT, User.CALLER, Jail.NONE, "control", "", "",
              "smtpctl, under each of its names; never trusted"),
    )
}

# Started with the daemon, in this order, and stopped in the reverse one (queue last: it must still
# write down what the others report).
CHILDREN: tuple[Proc, ...] = (Proc.QUEUE, Proc.LKA, Proc.SCHEDULER, Proc.CONTROL, Proc.MDA, Proc.MTA, Proc.SMTP)
