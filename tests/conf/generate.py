"""Files of smtpd.conf that nobody wrote: a random walk over the grammar, with every option in any order.

``text`` declares before it uses, and keeps what excludes each other apart, so that most of its files are valid, here
and for OpenSMTPD 7.8.  ``damage`` then spoils some of their tokens.  The verdicts of OpenSMTPD on a choice of them are
in tests/conf/verdicts.
"""

import random
from collections.abc import Callable, Sequence

from pysmtpd.conf.grammar_filter import PHASES
from pysmtpd.conf.grammar_limit import KEYWORDS, MTA_KEYWORDS
from pysmtpd.conf.lexer import File, Kind, Scanner
from pysmtpd.conf.words import RESERVED

FILES = {                          # in the directory that is given
    "list": "# a list\nexample.org\nexample.com\n",
    "hash": "root: joe\njoe: jane@example.org\n",
    "empty": "",
    "cert.pem": "x",
    "key.pem": "x",
    "ca.pem": "x",
    "more.conf": "",
}
_WORDS = ("a", "b1", "x_y", "Mail", "joe@example.org", "10.0.0.0/8", "::1", "example.org", "smtp+tls://l@h.example:25",
          "a$b", "a'b", "v.w-x", "25M", "4h", "_", "a/b", "1a", "k.%user")
_ODD_WORDS = ("é", "k.%{user}", "25", "/a", "match", "-1", "[::1]")
_QUOTED = ("", "two words", "a\\\\b", "/a path", "#", "@", "*.example.org", "<x>", "{", "}", "tab\there", "it\\'s",
           "$x", "é", "%{user.username}", "\\ ", "a=b", "match", "25", "!")
_DELAYS = ("1s", "30m", "4h", "2d", "0d", "4", "4x", "99999999999s", "1h30m", "4H")
_SIZES = ("35M", "1.5G", "10", "100k", "1B", "0", "1.5", "7.99E", "1.M", "8E", '".5M"', "-1", "12x")
_TRIES = 4


class Walk:
    """One file that is being written."""

    def __init__(self, seed: int, directory: str) -> None:
        self.rng = random.Random(seed)
        self.directory = directory
        self.lists: list[str] = []
        self.mappings: list[str] = []
        self.pkis: list[str] = []
        self.cas: list[str] = []
        self.actions: list[str] = []
        self.procs: list[str] = []
        self.filters: list[str] = []       # not chains
        self.chains: list[str] = []
        self.wrappers: list[str] = []
        self.srs = False
        self.macros: dict[str, str] = {}
        self.names = 0

    # words

    def chance(self, percent: int) -> bool:
        return self.rng.randrange(100) < percent

    def one(self, values: Sequence[str]) -> str:
        return self.rng.choice(values)

    def name(self) -> str:
        self.names += 1
        return self.one(("t", "n", "x-", "N.")) + str(self.names)

    def quoted(self, text: str) -> str:
        """A text in either kind of quotes, now and then over two lines."""
        quote = self.one("\"\"\"'")
        text = text.replace(quote, "\\" + quote)
        if text and self.chance(2):
            text = f"{text[:1]}\n{text[1:]}" if text[0] != "\\" else text
        return f"{quote}{text}{quote}"

    def said(self, name: str) -> str:
        """A name, quoted or not."""
        plain = name[0].isalnum() and name not in RESERVED
        return name if plain and self.chance(60) else self.quoted(name)

    def string(self) -> str:
        if self.macros and self.chance(8):
            return "$" + self.one(sorted(self.macros))
        if self.chance(45):
            return self.one(_ODD_WORDS if self.chance(1) else _WORDS)
        text, quote = self.one(_QUOTED), self.one("\"\"'")
        return f"{quote}{text}{quote}" if quote not in text.replace("\\" + quote, "") else f'"{text}"'

    def path(self, file: str) -> str:
        return self.quoted(f"{self.directory}/{file}")

    def delay(self) -> str:
        return self.one(_DELAYS if self.chance(6) else _DELAYS[:4])

    # tables

    def comma(self) -> str:
        return self.one((", ", " ", ",\n  ", "\n", ",", " , ", "\n\n  "))

    def entries(self, shape: str) -> str:
        count = self.rng.randint(1, 4)
        if shape == "mapping":
            equals = self.one(("=", " = ", " => ", "=>"))
            parts = [f"{self._key()}{equals}{self.string()}" for _ in range(count)]
        else:
            parts = [self.string() for _ in range(count)]
        text = parts[0]
        for part in parts[1:]:
            text += (self.comma() if not (text[-1].isalnum() and part[0] in "$") else ", ") + part
        return "{" + self.one((" ", "", "\n", " \n\n")) + text + self.one((" ", "\n", " ")) + "}"

    def _key(self) -> str:
        return self.one(("joe", '"@"', "'a b'", "example.org", '"joe@example.org"'))

    def table(self, shape: str = "list") -> str:
        """A place that takes a table of this shape: list, mapping or either."""
        if self.chance(1):
            shape = self.one(("list", "mapping"))
        if shape == "either":
            shape = self.one(("list", "mapping"))
        known = self.lists if shape == "list" else self.mappings
        if known and self.chance(50):
            return f"<{self.said(self.one(known))}>" if self.chance(90) else f"< {self.said(self.one(known))} >"
        if shape == "list" and self.chance(50):
            return self.string()
        return self.entries(shape)

    # statements

    def macro(self) -> str:
        name = self.name().replace("-", "").replace(".", "")
        value, text = self.rng.choice([("v1", "v1"), ("x y", '"x y"'), ("example.org", "example.org"),
                                       ('"a b"', "'\"a b\"'"), ("x.y", '"x.y"')])
        if " " not in value.strip('"') or value.startswith('"'):
            self.macros[name] = value
        return f"{name} {self.one(('=', ' = '))} {text}"

    def table_statement(self) -> str:
        name = self.name()
        shape = self.one(("list", "mapping"))
        (self.lists if shape == "list" else self.mappings).append(name)
        if self.chance(60):
            return f"table {self.said(name)} {self.entries(shape)}"
        file = "list" if shape == "list" else self.one(("hash", "empty"))
        prefix = self.one(("file:", "static:", ""))
        return f"table {self.said(name)} {self.quoted(f'{prefix}{self.directory}/{file}')}"

    def pki(self) -> str:
        name = self.one(("mail.example.org", "MX.example.com", "*", "x.test", "host_1"))
        said = self.quoted(name) if name == "*" else self.said(name)
        self.pkis.append(name.lower())
        parts = [f"cert {self.path('cert.pem')}", f"key {self.path('key.pem')}"]
        if self.chance(30):
            parts.append(f"dhe {self.one(('auto', 'none', 'legacy', 'AUTO'))}")
        self.rng.shuffle(parts)
        if self.chance(30):
            return "\n".join(f"pki {said} {part}" for part in parts)
        return f"pki {said} " + " ".join(parts)

    def ca(self) -> str:
        name = self.one(("ca.example.org", "CA", "*"))
        self.cas.append(name.lower())
        return f"ca {self.quoted(name) if name == '*' else self.said(name)} cert {self.path('ca.pem')}"

    def limits(self) -> str:
        family = self.one(("smtp", "mda", "scheduler", "mta", "mta"))
        words = sorted(MTA_KEYWORDS if family == "mta" else KEYWORDS[family])
        where = self.one(("", "", " for domain example.org", ' for domain "x"')) if family == "mta" else ""
        parts = [f"{self.one(words)} {self.rng.randint(1, 999)}" for _ in range(self.rng.randint(0, 4))]
        if family == "mta" and self.chance(30):
            parts.insert(0, self.one(("inet4", "inet6")))
        return f"{family} limit{where} " + " ".join(parts)

    def setting(self) -> str:
        made: list[Callable[[], str]] = [
            lambda: f"admd {self.quoted('mail example')}",
            lambda: "bounce warn-interval " + self.one((", ", ",", " , ")).join(
                self.delay() for _ in range(self.rng.randint(1, 5))),
            lambda: f"mta max-deferred {self.rng.randint(0, 500)}",
            lambda: "queue compression",
            lambda: "queue encryption " + (self.quoted("k" * 32) if self.chance(95) else '"short"'),
            lambda: f"queue ttl {self.delay()}",
            lambda: f"smtp ciphers {self.string()}",
            lambda: f"smtp max-message-size {self.one(_SIZES if self.chance(10) else _SIZES[:8])}",
            lambda: "smtp sub-addr-delim " + self.one(('"-"', "_", ":", '"."', "'x'")),
            self.srs_key,
            lambda: f"srs ttl {self.one(('4d', '1d', '24h', '48h', '25h'))}",
            self.limits,
            self.limits,
        ]
        return self.rng.choice(made)()

    def srs_key(self) -> str:
        self.srs = True
        return f"srs key {self.one(('', '', 'backup '))}{self.quoted('secret')}"

    def wrapper(self) -> str:
        name = self.name()
        self.wrappers.append(name)
        return f"mda wrapper {self.said(name)} {self.quoted('/bin/wrap %{mda}')}"

    def proc_options(self) -> str:
        options = [f"user {self.string()}", f"group {self.string()}", f"chroot {self.path('')}"]
        self.rng.shuffle(options)
        return "".join(f" {option}" for option in options[: self.rng.choice((0, 0, 1, 2, 3))])

    def proc(self) -> str:
        name = self.name()
        self.procs.append(name)
        return f"proc {self.said(name)} {self.quoted('filter-rspamd -v')}{self.proc_options()}"

    def filter(self) -> str:
        name = self.name()
        kinds = ["phase", "phase", "proc-exec"] + ["proc"] * bool(self.procs) + ["chain"] * bool(self.filters)
        kind = self.one(kinds)
        start = f"filter {self.said(name)} {kind} "
        if kind == "proc":
            text = start + self.said(self.one(self.procs))
        elif kind == "proc-exec":
            text = start + self.quoted("filter-x") + self.proc_options()
        elif kind == "phase":
            text = start + self.phase()
        else:
            text = start + self.chain()
            self.chains.append(name)
            return text
        self.filters.append(name)
        return text

    def chain(self) -> str:
        members = self.rng.sample(self.filters, min(len(self.filters), self.rng.randint(1, 3)))
        text = self.comma().join(self.said(member) for member in members)
        return "{ " + text + self.one((" }", "\n}", "}"))

    def phase(self) -> str:
        phase = self.one(sorted(PHASES))
        which = self.one(PHASES[phase])
        condition = self.one(("", "", "!", "! ")) + which
        if which != "fcrdns" and (which not in ("rdns", "auth") or self.chance(50)):
            condition += self.one((" ", " regex ")) + self.table(self.one(("list", "either")))
        verdicts = ["reject", "disconnect", "rewrite", "report"] + ["junk", "bypass"] * (phase != "commit")
        verdict = self.one(verdicts)
        text = "" if verdict in ("junk", "bypass") else " " + self.quoted("550 no")
        return f"{phase} match {condition} {verdict}{text}"

    def filter_use(self) -> str:
        if self.filters and self.chance(40):
            return f"filter {self.chain()}"
        return f"filter {self.said(self.one(self.filters + self.chains))}"

    def _options(self, options: list[str], most: int) -> str:
        """Some of the options, in any order, seldom one of them twice."""
        self.rng.shuffle(options)
        chosen = options[: self.rng.randint(0, most)]
        if chosen and self.chance(1):
            chosen.append(chosen[0])
        return "".join(f" {option}" for option in chosen)

    def listen(self) -> str:
        if self.chance(10):
            options = ["mask-src", "no-dsn", "tag x"] + ([self.filter_use()] if self.filters else [])
            return "listen on socket" + self._options(options, 3)
        where = self.one(("lo", '"lo"', "127.0.0.1", "::1", "localhost", "192.0.2.9", "0.0.0.0", "::"))
        options = ["tag t", "mask-src", "no-dsn", "received-auth", "proxy-v2", "hostname h.example.org",
                   f"port {self.one(('25', '587', 'smtp', 'smtps', 'submission', '1', '65535'))}",
                   f"ciphers {self.string()}", 'protocols "TLSv1.3"', f"hostnames {self.table('mapping')}",
                   f"senders {self.table('mapping')}{self.one(('', ' masquerade'))}"]
        if where in ("lo", '"lo"'):
            options.append(self.one(("inet4", "inet6")))
        if self.filters:
            options.append(self.filter_use())
        if self.cas:
            options.append(f"ca {self.said(self.one(self.cas))}")
        text = self._options(options, 7)
        if self.pkis and self.chance(60):
            mode = self.one(("tls", "tls-require", "smtps", "tls-require verify", "smtps verify"))
            more = [mode, *(f"pki {self.said(pki)}" for pki in self.rng.sample(self.pkis, 1))]
            if self.chance(60):
                use = f" {self.table('either')}" if self.chance(60) else ""
                more.append(self.one(("auth", "auth-optional")) + use)
            self.rng.shuffle(more)
            text = f" {' '.join(more)}{text}" if self.chance(50) else f"{text} {' '.join(more)}"
        return f"listen on {where}{text}"

    def action(self) -> str:
        name = self.name()
        text = f"action {self.said(name)} " + (self.local() if self.chance(55) else self.relay())
        if self.chance(20):
            text += f" ttl {self.delay()}"
        self.actions.append(name)
        return text

    def local(self) -> str:
        method = self.one(("mbox", "maildir", 'maildir "~/Mail dir"', "maildir junk", "maildir x junk", "mda",
                           "lmtp", "lmtp rcpt-to", "forward-only", "expand-only"))
        if method.startswith("mda"):
            method = f"mda {self.quoted('/usr/bin/deliver -f %{sender}')}"
        elif method.startswith("lmtp"):
            method = f"lmtp {self.quoted('/var/run/lmtp')}{' rcpt-to' * method.endswith('to')}"
        options = [f"{self.one(('alias', 'virtual'))} {self.table('mapping')}", f"userbase {self.table('mapping')}"
                   + self.one(("", "", ' ids "5000-5999"', " ids 5000", ' ids "5000:100-200"'))]
        if not method.startswith(("mbox", "forward", "expand")) or self.chance(1):
            options.append(f"user {self.said('vmail')}")
        if self.wrappers:
            options.append(f"wrapper {self.said(self.one(self.wrappers))}")
        return method + self._options(options, 4)

    def relay(self) -> str:
        options = [f"helo {self.string()}", f"helo-src {self.table('mapping')}", f"src {self.table('either')}",
                   f"mail-from {self.string()}", self.one(("tls", "tls no-verify")), f"ciphers {self.string()}",
                   'protocols "TLSv1.2:TLSv1.3"']
        if self.pkis:
            options.append(f"pki {self.said(self.one(self.pkis))}")
        if self.cas:
            options.append(f"ca {self.said(self.one(self.cas))}")
        if self.srs:
            options.append("srs")
        if self.filters:
            options.append(self.filter_use())
        way = self.one(("", "", "backup", "backup mx b.example.org", "host", "host", "domain"))
        if way == "host":
            way = f"host {self.table('list')}"
        elif way == "domain":
            way = f"domain {self.table('mapping')}"
        if way.startswith(("host", "domain")) and self.chance(50):
            way += f" auth {self.table('mapping')}"
        text = self._options(options, 5)
        return f"relay {way}{text}" if self.chance(50) else f"relay{text} {way}"

    def match(self) -> str:
        tests = [f"tag {self._tested('list')}", f"helo {self._tested('list')}", "tls", self._auth("auth", "either"),
                 f"mail-from {self._tested('either')}", f"rcpt-to {self._tested('either')}"]
        self.rng.shuffle(tests)
        chosen = tests[: self.rng.choice((0, 0, 0, 1, 2, 3))]
        if self.chance(75):
            chosen.append("from " + self.rng.choice([
                "any", "any", "local", "socket", f"src {self._tested('list')}", "rdns", f"rdns {self._tested('list')}",
                self._auth("auth", "list"), f"mail-from {self._tested('either')}"]))
        if self.chance(80):
            chosen.append("for " + self.rng.choice([
                "any", "any", "local", f"domain {self._tested('list')}", f"rcpt-to {self._tested('either')}"]))
        self.rng.shuffle(chosen)
        criteria = "".join(f" {self.one(('', '', '', '!', '! '))}{test}" for test in chosen)
        if self.actions and self.chance(75):
            return f"match{criteria} action {self.said(self.one(self.actions))}"
        return f"match{criteria} reject"

    def _tested(self, shape: str) -> str:
        return f"regex {self.table()}" if self.chance(25) else self.table(shape)

    def _auth(self, word: str, shape: str) -> str:
        return f"{word} {self._tested(shape)}" if self.chance(50) else word

    def write(self) -> str:
        """A whole file."""
        lines: list[str] = []
        for make, percent in ((self.macro, 20), (self.table_statement, 70), (self.pki, 35), (self.ca, 20),
                              (self.setting, 40), (self.wrapper, 15), (self.proc, 20), (self.filter, 30),
                              (self.listen, 40), (self.action, 65)):
            for _ in range(_TRIES):
                if self.chance(percent):
                    lines.append(make())
        lines += [self.match() for _ in range(self.rng.randint(1, 4))]
        text = ""
        for line in lines:
            text += self._joined(line) + self.one(("\n", "\n", "\n", "\n\n", " # a comment\n", "\t \n"))
        return text if self.chance(95) else text.removesuffix("\n")

    def _joined(self, line: str) -> str:
        """Now and then with a line that goes on after a backslash."""
        at = line.find(" ")
        if at > 0 and self.chance(5) and "\"" not in line[:at] and "'" not in line[:at]:
            return f"{line[:at]} \\\n\t{line[at + 1:]}"
        return line


def text(seed: int, directory: str) -> str:
    """A file that is probably valid."""
    return Walk(seed, directory).write()


_PIECES = ("{", "}", "<", ">", '"', "'", "=", "=>", "!", ",", "#", "\\", "\n", "\\\n", "$", "$x", "/", "25", "-1",
           "match", "table", "x", '"x"', "regex", "é", "-", "(", "action", "for", "from", "any", "tls", "auth", "*",
           ";", "x=y")


def damage(good: str, rng: random.Random) -> str:
    """The text with a few of its tokens dropped, doubled, swapped, cut or replaced."""
    pieces = tokens(good)
    for _ in range(rng.randint(1, 2)):
        at, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        how = rng.randrange(6)
        if how == 0:
            pieces[at] = ""
        elif how == 1:
            pieces[at] = f"{pieces[at]} {pieces[at]}"
        elif how == 2:
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif how == 3:
            pieces[at] = pieces[at][: len(pieces[at]) // 2]
        elif how == 4:
            pieces[at] = f"{rng.choice(_PIECES)} "
        else:
            pieces[at] += f"{rng.choice(_PIECES)} "
    return "".join(pieces)


def tokens(good: str) -> list[str]:
    """The text cut before each token, so that it can be put together again."""
    scanner, cuts = Scanner(File("", good)), [0]
    while (token := scanner.next()).kind is not Kind.END:
        cuts.append(token.start)
    return [good[one:two] for one, two in zip(cuts, [*cuts[1:], len(good)], strict=True)]
