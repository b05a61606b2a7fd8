"""Read smtpd.conf: the one entrance to this package."""

from collections.abc import Iterable, Iterator, Mapping

from pysmtpd.conf import classic, grammar, lint
from pysmtpd.conf.check import Check
from pysmtpd.conf.config import Config, Position
from pysmtpd.conf.diagnostic import Diagnostic, about, did_you_mean
from pysmtpd.conf.draft import Draft
from pysmtpd.conf.lexer import File
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.source import FILE_MAX, Source
from pysmtpd.conf.text import decode

__all__ = ["Loaded", "load"]

NOT_CHECKED = "not checked: "


class Loaded:
    """What became of a file.

    config: None when there are errors.  errors, warnings: in the order of the text; str() is what an operator reads.
    not_in_effect: what is understood and kept, but not acted on yet, and where it stands.
    incomplete: an included file could not be read, which root may; the config may name what it does not have."""

    def __init__(self, config: Config | None, draft: Draft) -> None:
        self.config = config
        self.errors: list[Diagnostic] = draft.errors
        self.warnings: list[Diagnostic] = draft.warnings
        self.not_in_effect: list[tuple[Position, str]] = draft.not_in_effect
        self.incomplete = bool(draft.unread)
        self._expectations = draft.expectations

    def warned(self, found: Iterable[tuple[Position, str]]) -> None:
        """More warnings, about complete rules."""
        self.warnings += [Diagnostic(at, message, warning=True) for at, message in found]
        _sort(self.warnings)

    @property
    def unchecked(self) -> list[Diagnostic]:
        """The warnings that say what could not be checked: without them "OK" would promise too much."""
        return [warning for warning in self.warnings if warning.message.startswith(NOT_CHECKED)]

    def tested(self, results: Iterable[tuple[bool | None, str, list[str]]]) -> None:
        """What became of each of the configuration's expectations: passed, what came instead, and why."""
        for (one, token), (passed, got, notes) in zip(self._expectations, results, strict=True):
            if passed is None:
                self.warnings.append(about(token, f"not checked: this test: {got}", warning=True))
            elif not passed:
                wanted = f'{one.verdict} "{one.text}"' if one.text else one.verdict
                self.errors.append(about(token, f"test failed: expected {wanted}, got {got}", notes))
        if self.errors:
            self.config = None
        _sort(self.errors)
        _sort(self.warnings)


def load(
    path: str, source: Source, macros: Mapping[str, str] | None = None, *, unprivileged_user: str = "",
    state_dir: str = "",
) -> Loaded:
    """Read a configuration, with all its errors.

    macros: those of -D, which the file cannot change.  unprivileged_user: the one user of a daemon without root."""
    draft = Draft()
    draft.unprivileged = bool(unprivileged_user)
    file = open_file(path, source, draft)
    if file is None:
        return Loaded(None, draft)
    parser = Parser(source, macros or {}, draft)
    parser.read(file, grammar.statement)
    classic.finish(parser)
    if not draft.rules and not draft.errors and not draft.unread:
        draft.errors.append(_whole(path, "no rules, nothing to do",
                                   'every message would be refused; write a match, such as: '
                                   'match for local action "local"'))
    config = Check(draft, source, unprivileged_user, state_dir).config()
    if not config.hostname:
        draft.errors.append(_whole(path, "this machine does not have a hostname set",
                                   "write its name into /etc/mailname"))
    draft.warnings += _unused_macros(parser, path)
    draft.not_in_effect.sort(key=lambda found: (found[0].file, found[0].line, found[0].column))
    if draft.errors:
        _sort(draft.errors)
        return Loaded(None, draft)
    if not draft.unread:
        draft.warnings += [*lint.unused(draft, parser.used), *lint.values(draft), *lint.hosts(draft),
                           *lint.clients(draft), *lint.listeners(draft)]
    _sort(draft.warnings)
    return Loaded(config, draft)


def open_file(path: str, source: Source, draft: Draft) -> File | None:
    """The file with this name; why there is none goes to the errors of the draft."""
    try:
        data = source.read(path, FILE_MAX + 1)
    except OSError as error:
        text, trouble = "", f"{error.strerror}"
    else:
        text, trouble = decode(data, path)
    if trouble:
        draft.errors.append(_whole(path, trouble))
        return None
    return File(path, text)


def _whole(path: str, message: str, *notes: str) -> Diagnostic:
    """What is wrong with a file as a whole."""
    return Diagnostic(Position(path, 1, 1), message, notes=notes)


def _unused_macros(parser: Parser, path: str) -> Iterator[Diagnostic]:
    for name in sorted(parser.fixed - parser.used):
        near = did_you_mean(name, parser.macros.keys() - {name})
        yield _whole(path, f"macro '{name}' of -D is not used{near}")._replace(warning=True)


def _sort(found: list[Diagnostic]) -> None:
    """Into the order of the text, files in the order in which they were met."""
    found[:] = dict.fromkeys(found)    # a rule of yesterday's may be read as two
    files = list(dict.fromkeys(one.at.file for one in found))
    found.sort(key=lambda one: (files.index(one.at.file), one.at.line, one.at.column))
