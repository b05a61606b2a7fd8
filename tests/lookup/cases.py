"""Configurations nobody wrote, with rules, tables, lists and sessions: what becomes of each recipient is compared with
OpenSMTPD 7.8's verdicts (tests/lookup/opensmtpd.py collects them, test_verdicts.py compares).

A case is plain data, to be written to a file with the verdicts:  ``conf`` and ``files`` (``@D@`` stands for their
directory), ``users``, and ``sessions``, which say who the client is and whom it has mail for.
"""

import random
from typing import Any

from tests.lookup import rewriting

USERS = ("bob", "carol", "dave", "erin", "root")
UIDS = {"root": 0, "bob": 3001, "carol": 3002, "dave": 3003, "erin": 3004, "list": 3005, "team": 3006, "loop": 3007}
_DOMAINS = ("example.org", "sub.example.org", "far.example", "lists.example", "other.test", "localhost",
            "mx.example.org", "abc.example", "EXAMPLE.org")
_PATTERNS = ("example.org", "*.example.org", "far.example", "lists.example", "a*.example", "*.test", "localhost", "*",
             "Sub.Example.Org", "*.far.example", "sub.*")
_ODD_PATTERNS = ("*.example", "*.org", "*.*.org", "*.example.*", "**.org", "*mple.org", "s*b.*")
_NAMES = ("bob", "carol", "dave", "erin", "root", "list", "team", "loop", "info", "nobody1", "staff", "sales", "x")
_TAGS = ("", "", "", "+t", "+work", "+", "+t+u", "+T")
_MAILS = ("bob", "bob@example.org", "@far.example", "@*.example.org", "carol@lists.example", "list+t@example.org",
          "@example.org", "bob+t@far.example", "info+work", "alice@far.example", "Carol@example.org", "@*")
_REGEXES = ("^b", "example\\.org$", "^[a-c]+@", "(bob|carol)", "\\.test$", "l.st", "t@", "^$", "far", "[0-9]", "^@$")
_ODD_MAILS = ("@", "@*.org", "bob@*", "erin@[127.0.0.1]", "+t", "@[*]")
_ODD_REGEXES = ("^\\S+$", "[A-C]OB", "(?i)BOB", "\\.\\w+$", "b{1,2}", "ar(l|o)?", "^srs0=", "\\$")
_NETS = ("127.0.0.1", "127.0.0.0/8", "127.0.0.2", "::1", "local", "192.0.2.0/24", "127.0.0.2/31", "::/0",
         "10.0.0.0/8", "[::1]", "0.0.0.0/0")
_ODD_NETS = ("127", "127.0.0.4/30", "::1/64", "127.1", "[::1]/128", "2001:db8::/32", "127.0.0.1/0")
_USERNAMES = ("bob", "carol", "Erin", "dave+t", "carol@example.org", "bob@Far.Example")
_WHO = ("bob", "carol", "@example.org", "bob@far.example", "erin", "dave", "carol@*.org", "dave+t")
# Of "secret".
HASH = "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG."
QUERIES = """dbpath @D@/@T@.sqlite
query_alias SELECT value FROM entry WHERE key = ?
query_userinfo SELECT uid, gid, home FROM user WHERE name = ?
"""
_LITERALS = ("[127.0.0.1]", "[192.0.2.9]", "[IPv6:::1]")
_HELOS = ("client.far.example", "mx.example.org", "localhost", "abc.example", "[127.0.0.1]", "h3")
_RDNS = {"127.0.0.1": "localhost", "127.0.0.2": "client.far.example", "127.0.0.3": "<unknown>",
         "127.0.0.4": "h.sub.example.org", "::1": "localhost"}
_SENDERS = ("", "alice@far.example", "bob@example.org", "bob+t@far.example", "Carol@Example.ORG",
            "carol@sub.example.org", "x@lists.example")
_MEMBERS = (*USERS, *USERS, *USERS, *_NAMES, "bob+t", "list+t", "bob@far.example", "carol@example.org",
            "list@lists.example", "x@abc.example", "Team@Example.Org", "Bob", "info@localhost", "|/bin/cat",
            "/var/mail/box", '"|/bin/cat -n, -u"', "|/usr/bin/x %{user.username}", "ann+t@far.example",
            "info@sub.example.org")
_TAME_MEMBERS = (*USERS, "bob+t", "|/bin/cat", "/var/mail/box", "/var/mail/%{dest.user}", "ann@far.example",
                 "carol@example.org", "x@abc.example", "list@lists.example", "| /bin/x a b", '"|/bin/cat -n, -u"')
_ODD_MEMBERS = ("\\bob", "error:550 No such thing", "error:451 Later", "error:no", "b ad", ":include:@D@/include1",
                "include:@D@/include2", ":include:@D@/gone", "bob@", "@far.example", "b@d@far.example", "'q'",
                "Error:552 5.2.2 Full", "<bob@far.example>", "|", "list", "loop@example.org", "Bob+Lists", "Carol+T")


class Writer:
    """One case that is being written."""

    LONG = 0.04                    # of the tables of aliases have a list of more than 100

    def __init__(self, seed: int, *, odd: float = 0.1, now: int = 0) -> None:
        """odd: how often a member of a list is an unusual one.  now: seconds since the epoch."""
        self.rng = random.Random(seed)
        self.odd = odd
        self.now = now
        self.logs_in, self.rewrites = self.rng.random() < 0.4, self.rng.random() < 0.3
        self.backends = self.rng.choice((("file",), ("file", "db"), ("file", "plain"), ("db", "plain"),
                                         ("sqlite", "file")))
        self.pool = self.rng.choice((_MEMBERS, _TAME_MEMBERS))
        self.lines: list[str] = []
        self.files: dict[str, str] = {}
        self.tables = 0

    def case(self, recipients: int = 25) -> dict[str, Any]:
        self.files["include1"] = "dave\n# nobody\nerin@far.example, carol\n"
        self.files["include2"] = f"{self.members(2)}\n{self.members(1)}\n"
        actions = [self.action(number) for number in range(self.rng.randint(4, 8))]
        rules = [self.rule(actions) for _ in range(self.rng.randint(6, 24))]
        if self.rng.random() < 0.8:
            rules += [f"match from any for local action {self.rng.choice(actions)}",
                      f"match from local for any action {actions[0]}"]
        if self.pool is _TAME_MEMBERS:
            # What an expansion leads to is relayed, so that most lists are good as a whole.
            rules = ['match from src "local" for any action a0', *rules, "match from any for any action a1"]
        conf = [*self.head(), "listen on 127.0.0.1 port 2525 tag IN", "listen on 127.0.0.1 port 2526",
                "listen on ::1 port 2525 tag SIX", *self.lines, *rules]
        for user in UIDS:
            if self.rng.random() < 0.35:
                self.files[f"home/{user}/.forward"] = self.forward(user)
        return {"conf": "\n".join(conf) + "\n", "files": self.files, "users": list(USERS), "now": self.now,
                "sessions": [self.session(recipients) for _ in range(6)]}

    def head(self) -> list[str]:
        lines = []
        if self.logs_in:
            self.files["creds"] = "".join(f"{name.lower()}\t{HASH}\n" for name in _USERNAMES)
            lines += ['pki mine cert "@D@/mx.crt"', 'pki mine key "@D@/mx.key"', "table creds file:@D@/creds",
                      "listen on 127.0.0.1 port 2527 tls pki mine auth-optional <creds> tag SUB"]
        if self.rewrites:
            lines += ['srs key "sesame"'] + ['srs key backup "old"'] * self.rng.randint(0, 1)
            lines += ["srs ttl 10d"] * self.rng.randint(0, 1)
        return lines

    def members(self, most: int = 4) -> str:
        return ", ".join(self.rng.choice(_ODD_MEMBERS if self.rng.random() < self.odd else self.pool)
                         for _ in range(self.rng.randint(1, most)))

    def forward(self, user: str) -> str:
        lines = [self.members(2).replace("|/bin/cat", f"|/bin/cat -{user}") for _ in range(self.rng.randint(0, 2))]
        if self.rng.random() < 0.3:
            lines.append(self.rng.choice((user, f"\\{user}")))
        return "".join(f"{line}\n" for line in lines)

    # tables

    def table(self, entries: list[str], *, pairs: bool = False) -> str:
        entries = list({entry.lower() if not pairs else entry: entry for entry in entries}.values())
        self.tables += 1
        name, kind = f"t{self.tables}", self.rng.random()
        if pairs:
            self.files[name] = "".join(f"{entry}\n" for entry in entries)
            backend = self.rng.choice(self.backends)
            if backend == "sqlite":
                self.files[f"{name}.sqlite.conf"] = QUERIES.replace("@T@", name)
            suffix = {"db": ".db", "sqlite": ".sqlite.conf"}.get(backend, "")
            self.lines.append(f"table {name} {backend}:@D@/{name}{suffix}")
        elif kind < 0.4 and not any(":" in entry for entry in entries):
            self.files[name] = "# a list\n" + "".join(f"{entry}\n" for entry in entries)
            db = "db" in self.backends and self.rng.random() < 0.5
            self.lines.append(f"table {name} {'db' if db else 'file'}:@D@/{name}{'.db' * db}")
        elif kind < 0.7:
            self.lines.append(f"table {name} {{ {', '.join(map(_quoted, entries))} }}")
        else:
            self.tables -= 1
            return _quoted(entries[0]) if len(entries) == 1 else f"{{ {', '.join(map(_quoted, entries))} }}"
        return f"<{name}>"

    def words(self, kind: str, *, regex: bool) -> tuple[str, ...]:
        """The entries that a criterion may have."""
        odd = self.rng.random() < self.odd
        if regex:
            words = ("^127", "0\\.2$", "::1", "local") if kind == "src" else _REGEXES
            return words + _ODD_REGEXES * odd
        if kind == "rdns":
            return tuple(_RDNS.values()) + _PATTERNS * odd
        plain, unusual = {"src": (_NETS, _ODD_NETS), "mail-from": (_MAILS, _ODD_MAILS), "rcpt-to": (_MAILS, _ODD_MAILS),
                          "tag": (("IN", "SIX", "in", "SUB"), ("Other",)), "auth": (_WHO, _ODD_MAILS),
                          }.get(kind, (_PATTERNS, _ODD_PATTERNS))
        return plain + unusual * odd

    def some(self, of: tuple[str, ...], most: int = 3) -> str:
        return self.table(sorted(set(self.rng.choices(of, k=self.rng.randint(1, most)))))

    def aliases(self) -> str:
        names = self.rng.sample(_NAMES, 7) + ["list+t", "bob+work"][: self.rng.randint(0, 2)]
        entries = [f"{name}: {self.members()}" for name in names]
        if self.rng.random() < self.LONG:
            entries[0] += "".join(f", x{number}@abc.example" for number in range(100)) + f", {self.members()}"
        return self.table(entries, pairs=True)

    def virtual(self) -> str:
        keys = [f"{name}@{self.rng.choice(_DOMAINS)}" for name in self.rng.sample(_NAMES, 5)]
        keys += self.rng.sample(_NAMES, 3) + [f"{name}+t@example.org" for name in self.rng.sample(_NAMES, 1)]
        keys += [f"@{domain}" for domain in self.rng.sample(_DOMAINS, self.rng.randint(0, 2))]
        keys += ["@"] if self.rng.random() < 0.2 else []
        return self.table([f"{key.lower()}: {self.members(3)}" for key in dict.fromkeys(keys)], pairs=True)

    # actions and rules

    def action(self, number: int) -> str:
        name, rng = f"a{number}", self.rng
        if number == 0 or rng.random() < 0.15:
            srs = " srs" * (self.rewrites and rng.random() < 0.5)
            self.lines.append(f"action {name} relay" + rng.choice(("", " host smtp://127.0.0.1:9")) + srs)
            return name
        method = rng.choice(("maildir", "maildir", "mbox", 'mda "/bin/cat"', 'lmtp "/run/l"', "expand-only",
                             "forward-only"))
        text = f"action {name} {method}"
        chosen = rng.random()
        if chosen < 0.45:
            text += f" alias {self.aliases()}"
        elif chosen < 0.8:
            text += f" virtual {self.virtual()}"
        if rng.random() < (0.05 if self.pool is _TAME_MEMBERS else 0.25):
            entries = [f"{user}: {UIDS[user]}:{UIDS[user]}:@D@/home/{user}" for user in rng.sample(tuple(UIDS), 5)]
            text += f" userbase {self.table(entries, pairs=True)}"
        elif method.split()[0] in ("maildir", "mda", "lmtp") and rng.random() < 0.3:
            text += f" user {rng.choice(USERS[:4])}"
        self.lines.append(text)
        return name

    def no(self) -> str:
        return "! " if self.rng.random() < 0.2 else ""

    def rule(self, actions: list[str]) -> str:
        rng, parts = self.rng, []
        regex = rng.random() < 0.15
        kind = rng.choice(("any", "any", "any", "any", "local", "src", "rdns", "mail-from", "socket", "bare", ""))
        if kind in ("any", "local", "socket"):
            parts.append(f"{self.no() if kind != 'any' else ''}from {kind}")
        elif kind == "bare":
            parts.append(f"{self.no()}from rdns")
        elif kind:
            parts.append(f"{self.no()}from {kind} {'regex ' * regex}{self.some(self.words(kind, regex=regex))}")
        regex = rng.random() < 0.15
        kind = rng.choice(("any", "any", "local", "domain", "domain", "domain", "rcpt-to", ""))
        if kind in ("any", "local"):
            parts.append(f"{self.no() if kind != 'any' else ''}for {kind}")
        elif kind:
            parts.append(f"{self.no()}for {kind} {'regex ' * regex}{self.some(self.words(kind, regex=regex))}")
        for kind in ("tag", "helo", "mail-from", "rcpt-to"):
            if rng.random() < 0.1 and not any(kind in part for part in parts):
                regex = rng.random() < 0.2
                parts.append(f"{self.no()}{kind} {'regex ' * regex}{self.some(self.words(kind, regex=regex))}")
        if rng.random() < 0.3 * self.logs_in:
            kind = rng.choice(("auth", "auth", "auth", "named", "named", "regex", "regex", "tls"))
            regex = kind == "regex"
            which = f"auth {'regex ' * regex}{self.some(self.words('auth', regex=regex))}"
            parts.append(self.no() + (which if kind in ("named", "regex") else kind))
        rng.shuffle(parts)
        end = "reject" if rng.random() < 0.1 else f"action {rng.choice(actions)}"
        return f"match {' '.join(parts)} {end}"

    # sessions

    def session(self, recipients: int) -> dict[str, Any]:
        rng = self.rng
        source = rng.choice((*_RDNS, "local"))
        port = 2525 if source == "::1" else 0 if source == "local" else rng.choice((2525, 2526))
        user, tls = "", False
        if self.logs_in and "." in source and rng.random() < 0.7:
            port, tls = 2527, rng.random() < 0.8
            user = rng.choice(_USERNAMES) if tls and rng.random() < 0.7 else ""
        sender = rng.choice(_SENDERS)
        if self.rewrites and rng.random() < 0.4:
            sender = ""
        rcpts: dict[str, str] = {}
        for _ in range(recipients):
            rcpt = self.recipient(sender)
            rcpts.setdefault(rcpt.lower(), rcpt)
        tag = {0: "", 2525: "SIX" if source == "::1" else "IN", 2526: "", 2527: "SUB"}[port]
        return {"source": source, "rdns": _RDNS.get(source, "mx.example.org"), "port": port, "tls": tls,
                "username": user, "helo": rng.choice(_HELOS), "tag": tag, "sender": sender,
                "rcpts": list(rcpts.values())}

    def recipient(self, sender: str) -> str:
        rng = self.rng
        if self.rewrites and rng.random() < (0.02 if sender else 0.4):
            return self.rewritten()
        if rng.random() < 0.02:
            return f"{rng.choice(_NAMES)}@{rng.choice(_LITERALS)}"
        rcpt = f"{rng.choice(_NAMES)}{rng.choice(_TAGS)}@{rng.choice(_DOMAINS)}"
        return rng.choice((rcpt, rcpt, rcpt, rcpt.title()))

    def rewritten(self) -> str:
        """A sender that was rewritten, by us or so it says."""
        rng = self.rng
        key, when = rng.choice(("sesame", "sesame", "sesame", "old", "other")), self.now - rewriting.DAY * rng.choice(
            (0, 0, 1, 3, 5, 9, 11, 40, -1, -2))
        sender = f"{rng.choice(_NAMES)}{rng.choice(_TAGS)}@{rng.choice(_DOMAINS)}"
        text = rewriting.first(key, sender, rng.choice(_DOMAINS), when)
        for _ in range(rng.choice((0, 0, 1, 2))):
            text = rewriting.further(rng.choice(("sesame", key)), text, rng.choice(_DOMAINS))
        kind = rng.random()
        if kind < 0.1:
            return text.replace("SRS", "srs", 1)
        if kind < 0.2:
            at = rng.randrange(5, text.index("@"))
            return text[:at] + rng.choice("AB=x") + text[at + 1:]
        return text


def _quoted(text: str) -> str:
    return f'"{text}"'.replace("\\", "\\\\")
