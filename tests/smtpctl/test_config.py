"""smtpctl config: offline, by anybody."""

from pathlib import Path

import pytest

from smtpctl import __main__ as program


def test_migrate_prints_the_file_in_todays_language(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_bytes(b"# \xe9\nlisten on lo mask-source\naccept for any relay # all\n")
    assert program.run("smtpctl", ["config", "migrate", str(path)]) == 0
    out, err = capfdbinary.readouterr()
    assert out.splitlines() == [
        b"# \xe9", b"listen on lo mask-src", b'action "relay" relay', b'match from local for any action "relay" # all']
    assert err == b""


def test_migrate_says_what_is_wrong_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text("accept for any rely\n")
    assert program.run("smtpctl", ["config", "migrate", str(path)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f'{path}:1:16: unknown word "rely", did you mean "relay"?\n')


def test_migrate_of_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert program.run("smtpctl", ["config", "migrate", str(tmp_path / "none")]) == 1
    assert "No such file or directory" in capfd.readouterr().err
