"""What a worker is told, by envelope and action."""

import pytest

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.procs import Proc
from pysmtpd.conf.config import Action, Method
from pysmtpd.deliver.plan import Plan, check
from pysmtpd.deliver.verdict import Failed
from pysmtpd.imsg import Encoder
from pysmtpd.messages import Outcome, WorkerDeliver
from tests.deliver.support import envelope


def action(method: Method, argument: str = "", **fields: object) -> Action:
    return Action(name="local", method=method, argument=argument, **fields)  # type: ignore[arg-type]


def plan(one: Action, env: Envelope | None = None, **wrappers: str) -> WorkerDeliver:
    return Plan(env or envelope(), one, wrappers, "/home/joe", "+").message(7, 100, has_8bit=True)


@pytest.mark.parametrize("one, method, argument", [
    (action(Method.MAILDIR), "maildir", ""),
    (action(Method.MAILDIR, "~/Maildir"), "maildir", "/home/joe/Maildir"),
    (action(Method.MAILDIR, "/v/%{dest.domain}/%{dest.user}"), "maildir", "/v/example.com/joe"),
    (action(Method.MBOX), "mbox", ""),
    (action(Method.MDA, "procmail -a %{rcpt}"), "mda", "procmail -a joe@example.com"),
    (action(Method.LMTP, "/run/%{user.username}"), "lmtp", "/run/joe"),
])
def test_methods(one: Action, method: str, argument: str) -> None:
    message = plan(one)
    assert (message.method, message.argument, message.wrapper) == (method, argument, "")
    assert (message.jobid, message.size, message.has_8bit, message.timeout) == (7, 100, True, 300)


def test_what_expansion_found_comes_before_the_action() -> None:
    one = action(Method.MAILDIR, "~/Maildir")
    piped, filed = plan(one, envelope(command="|vacation %{sender}")), plan(one, envelope(command="/home/joe/box"))
    assert (piped.method, piped.argument) == ("mda", "vacation a@example.org")
    assert (filed.method, filed.argument) == ("file", "/home/joe/box")


@pytest.mark.parametrize("one, taken", [
    (action(Method.MAILDIR), True), (action(Method.LMTP, "/x"), True), (action(Method.MDA, "cat"), True),
    (action(Method.MBOX), False), (action(Method.MAILDIR, wrapper="w"), False),
])
def test_binary_mail_is_refused_where_it_would_be_changed(one: Action, taken: bool) -> None:
    made = Plan(envelope(), one, {"w": "%{mda}"}, "/home/joe", "+")
    if taken:
        assert made.message(7, 100, has_8bit=True, binary=True).binary
        return
    with pytest.raises(Failed) as failed:
        made.message(7, 100, has_8bit=True, binary=True)
    assert (failed.value.verdict.outcome, failed.value.verdict.esc) == (Outcome.PERMFAIL, "5.6.1")


def test_wrappers() -> None:
    message = plan(action(Method.MDA, "procmail", wrapper="w"), w="spam %{user.username} | %{mda}")
    assert (message.argument, message.wrapper) == ("spam joe | procmail", "")
    message = plan(action(Method.MAILDIR, "~/M", wrapper="w"), w="spam | %{mda}")
    assert (message.method, message.argument) == ("maildir", "/home/joe/M")
    assert message.wrapper.startswith("spam | {")


def test_a_wrapper_that_is_not_there() -> None:
    with pytest.raises(Failed) as failed:
        plan(action(Method.MDA, "procmail", wrapper="w"))
    assert failed.value.verdict.outcome is Outcome.TEMPFAIL


def test_lmtp_recipients() -> None:
    env = envelope(user="joe", dest="joe+x@example.com", sender="")
    assert plan(action(Method.LMTP, "h"), env).lmtp_rcpt == "joe"
    message = plan(action(Method.LMTP, "h", lmtp_rcpt_to=True), env)
    assert (message.lmtp_rcpt, message.lmtp_from, message.mbox_from) == ("joe+x@example.com", "", "MAILER-DAEMON")


def test_the_environment() -> None:
    env = envelope(rcpt="list@example.net", dest="joe+x-y@example.com", sender="b@example.org", subaddress="x-y")
    message = plan(action(Method.MDA, "x"), env)
    assert dict(message.environment) == {
        "PATH": "/usr/bin:/bin", "DOMAIN": "example.net", "HOME": "/home/joe", "RECIPIENT": "joe+x-y@example.com",
        "ORIGINAL_RECIPIENT": "list@example.net", "SHELL": "/bin/sh", "LOCAL": "list", "LOGNAME": "joe", "USER": "joe",
        "SENDER": "b@example.org", "EXTENSION": "x-y",
    }
    assert message.extension == "x-y"
    assert "EXTENSION" not in dict(plan(action(Method.MDA, "x"), envelope(dest="joe+elsewhere@x.com")).environment)


def test_the_home_of_another_user() -> None:
    """With ``user vmail`` the home of the recipient is not known, and vmail's would be everybody's."""
    with pytest.raises(Failed) as failed:
        plan(action(Method.MAILDIR, "~/Maildir", user="vmail"))
    assert failed.value.verdict.outcome is Outcome.TEMPFAIL
    assert plan(action(Method.MAILDIR, "~/Maildir", user="joe")).argument == "/home/joe/Maildir"


@pytest.mark.parametrize("one, env, outcome", [
    (action(Method.EXPAND_ONLY), None, Outcome.PERMFAIL),
    (action(Method.FORWARD_ONLY), None, Outcome.PERMFAIL),
    (action(Method.MDA, "%{dest.user[5]}"), None, Outcome.PERMFAIL),
    (action(Method.MDA, "%{x}"), None, Outcome.TEMPFAIL),
])
def test_no_delivery(one: Action, env: Envelope | None, outcome: Outcome) -> None:
    with pytest.raises(Failed) as failed:
        plan(one, env)
    assert failed.value.verdict.outcome is outcome


def test_the_longest_addresses_fit_a_frame() -> None:
    long = "\u20ac" * 85 + "@" + "\u20ac" * 85
    message = plan(action(Method.MAILDIR, "/" + "x" * 4000, wrapper="w"),
                   envelope(rcpt=long, dest=long, sender=long, user="\u20ac" * 85), w="%{mda} " + "x" * 4000)
    assert Encoder(Proc.MDA, Proc.WORKER, 1).encode(message)


@pytest.mark.parametrize("one, good", [
    (action(Method.MAILDIR, "~/%{dest.user[3:]}"), True), (action(Method.MAILDIR, "~/%{oops}"), False),
    (action(Method.MDA, "%{mda}"), False), (action(Method.MDA, "x", wrapper="w"), True),
    (action(Method.MDA, "x", wrapper="v"), False), (action(Method.MAILDIR, "~/x", user="vmail"), False),
])
def test_checked_at_start(one: Action, good: bool) -> None:
    assert (check(one, {"w": "%{mda} %{rcpt}", "v": "%{"}) == "") is good
