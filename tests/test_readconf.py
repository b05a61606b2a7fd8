"""readconf.read: what -n tells, and on which stream."""

from pathlib import Path

import pytest

from pysmtpd.readconf import Job, read


def test_what_could_not_be_checked_is_told_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text("listen on smtp.example.com\nlisten on lo\naction a mbox\nmatch for local reject\n")
    assert read(Job(path=str(path))) is not None
    quiet = capsys.readouterr()
    assert quiet.out == ""
    assert quiet.err.startswith(f'{path}:1:11: warning: not checked: "smtp.example.com" is not in the hosts file\n')
    assert "never used" not in quiet.err
    assert read(Job(path=str(path), verbose=True)) is not None
    assert 'action "a" is never used' in capsys.readouterr().err
