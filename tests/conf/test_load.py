"""What load() does with a file as a whole: -D, users, warnings, what cannot be checked."""

import time

import pytest

from pysmtpd.conf.config import Secret
from pysmtpd.conf.load import load
from pysmtpd.conf.parser import ERRORS_MAX
from tests.conf.machine import PATH, Machine, errors, read


def warnings(text: str, machine: Machine | None = None) -> list[str]:
    found = read(text, machine)
    assert found.errors == []
    return [str(warning).split("\n")[0].removeprefix(f"{PATH}:") for warning in found.warnings]


def test_macros_of_the_command_line_win() -> None:
    machine = Machine('p = "25"\nlisten on lo inet4 port $p\nmatch for any reject')
    config = load(PATH, machine, {"p": "2525"}).config
    assert config is not None and config.listeners[0].port == 2525
    found = load(PATH, machine, {"prot": "2525"})
    assert found.config is not None
    assert [str(warning) for warning in found.warnings] == [
        "smtpd.conf:1:1: warning: macro 'prot' of -D is not used"]
    assert "did you mean \"port\"" in str(load(PATH, Machine("port = x"), {"prot": "x"}).warnings)


def test_a_missing_file() -> None:
    found = load("/none", Machine())
    assert found.config is None
    assert [str(error) for error in found.errors] == ["/none:1:1: No such file or directory"]


def test_every_error_is_told_but_not_without_end() -> None:
    assert len(errors("listen on lo prt\n" * 10)) == 10
    assert len(read("nonsense\n" * 1000).errors) == ERRORS_MAX


def test_a_broken_declaration_is_not_missing_too() -> None:
    text = """
    action a mbox usr
    table t { x
    filter f chian
    proc p
    ca c crt
    pki k cret x
    mda wrapper w
    listen on lo filter f
    listen on eth1 tls pki k ca c
    action b maildir alias <t> wrapper w
    filter g proc p
    match for any action a
    """
    assert len(errors(text)) == 7


def test_a_line_that_is_broken_ends_with_its_line() -> None:
    found = read("listen on lo port x y { z\naction a mbox\nmatch for any action a")
    assert [str(error.at) for error in found.errors] == ["smtpd.conf:1:19"]


def test_without_root_there_is_one_user() -> None:
    text = "action a maildir user joe\naction b mbox\nmatch for any action a\nmatch for local action b"
    assert read(text, unprivileged_user="joe", state_dir="/s").config.user == "joe"  # type: ignore[union-attr]
    found = read(text, unprivileged_user="jane")
    assert str(found.errors[0]).split("\n")[0] == (
        'smtpd.conf:1:23: cannot deliver as "joe": the daemon runs without root, as jane')


def test_what_only_root_can_check_is_no_error() -> None:
    machine = Machine()
    machine.secret = {"/etc/secret"}
    machine.put("/etc/secret", "a b")
    text = "table s file:/etc/secret\naction a relay host smtps://l@x auth <s>\naction b mbox alias <s>\n" \
           "match for local action b\nmatch from any auth for any action a"
    assert warnings(text, machine) == ["1:9: warning: not checked: /etc/secret: need root"]


def test_an_unprivileged_daemon_cannot_read_what_its_user_cannot() -> None:
    machine = Machine()
    machine.secret = {"/etc/secret"}
    machine.put("/etc/secret", "a b")
    text = "table s file:/etc/secret\naction b mbox alias <s>\nmatch for local action b"
    (error,) = read(text, machine, unprivileged_user="joe").errors
    assert str(error).split("\n")[0] == "smtpd.conf:1:9: /etc/secret: Permission denied"


UNREAD = """
include "/etc/mail/secret.conf"
listen on lo inet4 port $port
listen on lo filter "f"
action b mbox alias <s>
action c relay srs pki p
match for local action b
match for any action "x"
"""


def test_an_include_that_only_root_may_read_is_no_error() -> None:
    machine = Machine()
    machine.secret = {"/etc/mail/secret.conf"}
    machine.put("/etc/mail/secret.conf", "port = 25")
    found = read(UNREAD, machine)
    assert [str(error) for error in found.errors] == [] and found.incomplete
    assert [str(warning).split("\n")[0] for warning in found.unchecked] == [
        "smtpd.conf:2:9: warning: not checked: /etc/mail/secret.conf: need root",
        "smtpd.conf:3:25: warning: not checked: macro 'port' not defined but perhaps in /etc/mail/secret.conf",
    ]
    assert found.unchecked == found.warnings
    mine = read(UNREAD, machine, unprivileged_user="joe")
    assert str(mine.errors[0]).startswith("smtpd.conf:2:9: failed to include file /etc/mail/secret.conf: Permission")


def test_all_rules_may_be_in_an_include_that_only_root_may_read() -> None:
    machine = Machine('include "/etc/mail/secret.conf"\n')
    machine.secret = {"/etc/mail/secret.conf"}
    machine.put("/etc/mail/secret.conf", "match for any reject")
    assert load(PATH, machine).errors == []


def test_keys_without_root_may_be_ones_own() -> None:
    machine = Machine()
    machine.uid = 1000
    machine.put("/home/key.pem", "x", uid=1000)
    text = 'pki a cert "/etc/cert.pem" key "/home/key.pem"'
    assert "not owned by root" in errors(text, machine)[0]
    assert read(text, machine, unprivileged_user="joe").errors == []


def test_the_order_of_options_that_name_a_host_is_free() -> None:
    assert errors("table t { l = \"u:p\" }\naction a relay auth <t> host h\nmatch for any action a") == []


def test_secrets_do_not_show() -> None:
    config = read('srs key "hush"\nqueue encryption "0123456789abcdef0123456789abcdef"\ntable t { a = hush }').config
    assert config is not None
    assert isinstance(config.srs_key, Secret)
    assert "hush" not in repr(config)
    assert "0123456789abcdef" not in repr(config)


def test_a_wrong_key_does_not_show() -> None:
    assert "hush" not in str(read('queue encryption "hush"').errors[0])


def test_a_host_name_is_needed() -> None:
    machine = Machine()
    machine.name = ""
    assert "hostname" in errors("listen on lo", machine)[0]


def test_the_short_name_of_the_host_is_local() -> None:
    config = read("").config
    assert config is not None
    names = config.tables["<localnames>"].keys
    assert names[:3] == ("localhost", "mail.example.org", "mail")
    assert set(names) > {"127.0.0.1", "[::1]", "[2001:db8::2]", "[fe80::2]"}
    assert set(config.tables["<localhost>"].keys) == {"local", *names[3:]}
    assert config.tables["<anydestination>"].keys == ("*",)


PKI = 'pki a cert "/etc/cert.pem" key "/etc/key.pem"\n'
RELAY, USED = "action out relay host", "\nmatch for any action out"


@pytest.mark.parametrize(("text", "warning"), [
    ("action a relay", '1:8: warning: action "a" is never used'),
    ('action a relay\ntest from a to b expect action a', '1:8: warning: action "a" is never used'),
    ("table d { a.example }\nmatch for domain d reject\nmatch for domain <d> reject",
     "2:18: warning: this is one value; the table of that name is <d>"),
    ("table d { a = b }\nmatch for domain d reject\nmatch mail-from <d> reject", ""),
    ("table d { a.example }\nmatch for domain { d } reject\nmatch for domain <d> reject", ""),
    ("table t { a }", '1:7: warning: table "t" is never used'),
    ("table t { a }\nmatch tag <t> reject", ""),
    ('pki a cert "/etc/cert.pem"\npki a key "/etc/key.pem"', '1:5: warning: pki "a" is never used'),
    ('pki "*" cert "/etc/cert.pem" key "/etc/key.pem"', ""),
    ('ca a cert "/etc/ca.pem"', '1:4: warning: ca "a" is never used'),
    ("mda wrapper w x", '1:13: warning: mda wrapper "w" is never used'),
    ("filter f proc-exec x", '1:8: warning: filter "f" is never used'),
    ("filter f proc p\nproc p x\nlisten on lo filter f", ""),
    ("filter f proc-exec x\nfilter g chain { f }\nlisten on lo filter g", ""),
    ("proc p x", '1:6: warning: proc "p" is never used'),
    ('m = "x"', "1:1: warning: macro $m is never used"),
    (f"{RELAY} smtps://mx.example.org:99999{USED}", '1:23: warning: "smtps://mx.example.org:99999" is no host to '),
    (f"{RELAY} smtp+starttls://mx.example.org{USED}", '1:23: warning: "smtp+starttls://mx.example.org" is no host'),
    (f"{RELAY} smtps://me@mx.example.org{USED}", '1:23: warning: the label "me" is of no use: action "out" has no'),
    (f"{RELAY} smtps://mx.example.org auth {{ me = x:y }}{USED}", '1:23: warning: auth of action "out" is of no use'),
    (f"{RELAY} smtps://me@mx.example.org auth {{ me = x:y }}{USED}", ""),
    ('match from src 192.0.2.0/240 reject', '1:16: warning: no client has the address "192.0.2.0/240"'),
    ('match from src "mx.example.org" reject', '1:16: warning: no client has the address "mx.example.org"'),
    ('match from src { "local", "[2001:db8::]/32", "2001:db8:1::/48", 10.0.0.0/8, "192.168" } reject', ""),
    ("match from src regex { '^192' } reject\nmatch from any reject\nmatch from local reject", ""),
    (f"{PKI}listen on eth1 port 465 tls pki a", "2:16: warning: clients begin with TLS on port 465, and wait"),
    ("listen on eth1 port smtps", "1:16: warning: clients begin with TLS on port 465, and wait"),
    (f"{PKI}listen on eth1 port 587 smtps pki a", "2:16: warning: clients begin without TLS on port 587"),
    (f"{PKI}listen on eth1 port 465 smtps pki a\nlisten on eth1 smtps pki a port 10465", ""),
    (f"{PKI}listen on eth1 port 587 tls-require pki a\nlisten on eth1", ""),
    (f"{PKI}table t {{ joe }}\nlisten on eth1 tls pki a auth <t>", '3:26: warning: nobody can log in: table'),
    (f"{PKI}listen on eth1 tls pki a auth required", "2:26: warning: nobody can log in: this table is a list"),
    (f"{PKI}table t {{ joe = x }}\nlisten on eth1 tls pki a auth <t>\nlisten on eth0 tls pki a auth", ""),
    ("listen on lo dsn-ret headers", "1:14: warning: dsn-ret is gone"),
    ('m = "x"\nmatch tag $m reject', ""),
    ("listen on lo inet4\nlisten on 127.0.0.1", "2:1: warning: 127.0.0.1 port 25 is already listened on"),
    ("listen on smtp.example.com", '1:11: warning: not checked: "smtp.example.com"'),
    ("domane = x\nmatch tag a$domane helo $domane reject", "2:11: warning: $domane stays as it is"),
    ("# a \\\nlisten on lo\nlisten on eth1", "1:5: warning: this backslash makes"),
    ("include \"/none/*.conf\"", "1:9: warning: no file matches"),
    ("match auth from auth reject", "1:17: warning: this replaces the auth at smtpd.conf:1:7"),
])
def test_warnings(text: str, warning: str) -> None:
    assert [one[: len(warning)] for one in warnings(text)] == ([warning] if warning else [])


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(codec: str) -> None:
    data = "\ufeff".encode("utf-16-be") * (codec != "utf-16") + "listen on lo\n".encode(codec)
    found = load(PATH, Machine(data)).errors
    assert [one.message for one in found] == ["smtpd.conf is UTF-16; make it UTF-8 with: iconv -f UTF-16 -t UTF-8"]


def test_includes_have_an_end() -> None:
    machine = Machine()
    for number in range(40):
        machine.put(f"/{number}", f'include "/{number + 1}"')
    assert "files include each other" in errors('include "/0"', machine)[0]


def test_300_lines_are_read_in_100_ms() -> None:
    part = """
        table t{0} {{ a, b, c, "d e f", g }}
        listen on 192.0.2.{0} port 25 tls pki mail.example.org auth-optional hostname mail.example.org tag T{0}
        action a{0} relay host smtp+tls://relay{0}.example.org:587 helo h.example.org src 192.0.2.2 ttl 4d
        match tag T{0} from src <t{0}> for domain {{ a.example b.example }} mail-from regex "^a.*" action a{0}
        mta limit for domain d{0}.example.org inet4 max-conn-per-host 3 # and a comment
        name{0} = value
    """
    text = 'pki mail.example.org cert "/etc/cert.pem" key "/etc/key.pem"\n'
    text += "".join(part.format(number) for number in range(50))
    assert text.count("\n") > 300
    times = []
    for _ in range(5):
        start = time.process_time()    # not the time others have on this machine
        assert read(text).errors == []
        times.append(time.process_time() - start)
    assert min(times) < 0.1


def test_a_macro_with_an_error_is_not_missing_too() -> None:
    text = "m = 25\nlisten on $m\n$m\naction a mbox alias $m $m\n$m = x\nmatch for $m $m reject\n"
    assert errors(text) == ['1:5: unexpected "25", expected the value of the macro']


def test_a_file_has_an_end() -> None:
    from pysmtpd.conf.source import FILE_MAX

    assert errors("#" * FILE_MAX)[0] == "1:1: smtpd.conf is larger than 4 MiB"
    machine = Machine()
    machine.put("/etc/big", "#" * (FILE_MAX + 1))
    assert errors('include "/etc/big"', machine) == ["1:9: /etc/big is larger than 4 MiB"]


def test_what_a_file_that_cannot_be_read_declares_is_not_missing_too() -> None:
    machine = Machine()
    machine.put("/etc/a.conf", "table t {\r\n")
    for path, why in (("/etc/none", "No such file"), ("/etc/a.conf", "CRLF")):
        text = f'include "{path}"\naction a maildir alias <t> wrapper w\nlisten on lo tls pki p ca c filter f\n' \
               "match for any action b\npki q cert /x"
        found = errors(text.replace("/x", '"/etc/cert.pem"'), machine)
        assert len(found) == 1 and why in found[0]
    many = errors("nonsense\n" * 60 + "table t { a }\nmatch tag <t> reject\n")
    assert len(many) == ERRORS_MAX and not any("no such" in one for one in many)


def test_of_many_files_each_is_read() -> None:
    machine = Machine()
    machine.put("/etc/c.d/a.conf", "nonsense\n")
    machine.put("/etc/c.d/b.conf", "a\r\n")
    machine.put("/etc/c.d/c.conf", "nonsense\n")
    found = {str(error.at): error for error in read('include "/etc/c.d/*.conf"', machine).errors}
    assert found.keys() == {"smtpd.conf:1:9", "/etc/c.d/a.conf:1:1", "/etc/c.d/c.conf:1:1"}
    assert found["/etc/c.d/c.conf:1:1"].notes[-1] == "included from smtpd.conf:1:9"
