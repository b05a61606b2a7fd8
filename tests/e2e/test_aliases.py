"""Aliases, virtual users and .forward, from RCPT to the mailbox."""

import pwd
import shlex
from pathlib import Path

from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import until

CONF = """listen on 127.0.0.1 port {port}
table aliases file:{where}/aliases
action "local" maildir "{box}/maildir" alias <aliases>
match from any for local action "local"
"""


def test_lists_includes_and_commands_of_aliases(start: Start, port: int, recipient: pwd.struct_passwd, where: Path,
                                               box: Path) -> None:
    script = f"cat > {shlex.quote(str(box))}/tmp; mv {shlex.quote(str(box))}/tmp {shlex.quote(str(box))}/piped"
    (where / "list").write_text(f"# members\n{recipient.pw_name}\nno-such-user-here\n", encoding="utf-8")
    (where / "aliases").write_text(
        f'all: one, robot, :include:{where}/list\none: {recipient.pw_name}\nrobot: "|{script}"\n'
        "gone: error:550 5.1.6 Moved away\n", encoding="utf-8")
    daemon = start(CONF.format(port=port, where=where, box=box))
    mail.send(port, "all@localhost", "list")
    until(lambda: (box / "piped").exists(), "the command's output")
    until(lambda: mail.names_in(mail.maildir(box / "maildir"))["list"], "the message")
    assert mail.names_in(mail.maildir(box / "maildir"))["list"] == 1
    assert mail.names_in([(box / "piped").read_bytes()])["list"] == 1
    daemon.until_logged(r"member no-such-user-here of <all@localhost>: no user no-such-user-here in <getpwnam>")
