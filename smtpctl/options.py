"""sendmail's command line.  Options and recipients may be mixed."""

IGNORED_WITH_ARGUMENT = frozenset("ABCDLMOQTXdehop")
IGNORED = frozenset("EGImnx")
KNOWN_WITH_ARGUMENT = frozenset("fFrNRV")


class Usage(Exception):
    """The command line makes no sense; text says why, and is empty for the usual line."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text


class Options:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.sender: str | None = None  # -f, -r
        self.full_name = ""        # -F
        self.from_header = False   # -t
        self.verbose = False       # -v
        self.by_uid_only = False   # -S
        self.notify = ""           # -N, -R, -V
        self.ret = ""
        self.envid = ""
        self.mode = "m"            # -b: m send, s speak SMTP, p show the queue, i newaliases; q: -q
        self.state_dir = ""
        self.recipients: list[str] = []
        self.ignored: list[str] = []


def read_options(arguments: list[str]) -> Options:
    """Raises Usage."""
    options, rest = Options(), list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            options.recipients += rest
            break
        if word.startswith("--"):
            _long(options, word, rest)
        elif word.startswith("-") and len(word) > 1:
            _cluster(options, word[1:], rest)
        else:
            options.recipients.append(word)
    return options


def _long(options: Options, word: str, rest: list[str]) -> None:
    name, equals, value = word.partition("=")
    if name == "--state-dir":
        options.state_dir = value if equals else _argument(name, "", rest)
    else:
        options.ignored.append(name)


def _cluster(options: Options, letters: str, rest: list[str]) -> None:
    """``-tv``, ``-ffrom``, ``-f from``."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in KNOWN_WITH_ARGUMENT:
            _set(options, letter, _argument(f"-{letter}", letters, rest))
            return
        if letter == "b":
            _mode(options, letters or _argument("-b", "", rest))
            return
        if letter == "q":
            options.mode = "q"     # whatever follows is an interval or a pattern
            return
        if letter in IGNORED_WITH_ARGUMENT:
            _argument(f"-{letter}", letters, rest)
            return
        if letter == "E":
            return                 # its argument is attached, if there is one
        if not _flag(options, letter) and letter not in IGNORED:
            options.ignored.append(f"-{letter}")


def _argument(option: str, attached: str, rest: list[str]) -> str:
    if attached:
        return attached
    if not rest:
        raise Usage(f"sendmail: option {option} needs an argument")
    return rest.pop(0)


def _flag(options: Options, letter: str) -> bool:
    if letter == "t":
        options.from_header = True
    elif letter == "v":
        options.verbose = True
    elif letter == "S":
        options.by_uid_only = True
    else:
        # A lone dot never ends a message here, so there is nothing that -i could change.
        return letter == "i"
    return True


def _set(options: Options, letter: str, value: str) -> None:
    if letter in "fr":
        options.sender = value
    elif letter == "F":
        options.full_name = value
    elif any(not 33 <= ord(c) <= 126 for c in value):
        raise Usage(f"sendmail: option -{letter} with a bad character")
    elif letter == "N":
        options.notify = value
    elif letter == "R":
        options.ret = value
    else:
        options.envid = value


def _mode(options: Options, value: str) -> None:
    if value[0] not in "msip":
        raise Usage(f"sendmail: -b{value} is not supported")
    options.mode = value[0]
