#!/bin/sh
# make run: start pysmtpd from this checkout, to look at.  It never touches the system's places.
#
# As root everything is in /var/lib/pysmtpd-try, a copy of the program too (the daemon should not run code that
# somebody else may change), and mail goes to mailboxes.  As a user everything is in ./.run and ./.venv, and your own
# mail goes to a maildir.
set -eu
umask 022
checkout=$(cd "$(dirname "$0")/.." && pwd)
port=${PORT:-2525}
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

make_user() {
    getent passwd "$1" >/dev/null && return
    say "making the user $1, without password, shell or home"
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"
}

make_venv() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c '' 2>/dev/null && return
    say "making a virtual environment in $venv"
    "$python" -m venv --clear "$venv" || {
        say "this needs the package python3-venv: apt-get install python3-venv"
        exit 1
    }
}

# Installs only when something changed since the last time: $1 is a file to compare with, the rest is for pip.
install_program() {
    stamp=$venv/$1
    shift
    if [ -e "$stamp" ] && [ -z "$(find $watched -newer "$stamp" -name '*.[pt][yo]*' -print | head -n 1)" ]; then
        return
    fi
    say "installing pysmtpd into $venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"
    touch "$stamp"
}

cd "$checkout"
if [ "$(id -u)" = 0 ]; then
    state=/var/lib/pysmtpd-try
    venv=$state/venv
    [ -d "$state" ] || install -d -o root -g root -m 0711 "$state"
    make_user _smtpd
    make_user _smtpq
    make_venv
    watched="pyproject.toml pysmtpd smtpctl"
    install_program .copied .
    install -m 0644 etc/smtpd.conf.sample "$state/smtpd.conf"
    recipient=${SUDO_USER:-root}
    method=mbox
    lands=/var/mail/$recipient
else
    state=$checkout/.run
    venv=$checkout/.venv
    [ -w "$checkout" ] || { say "$checkout belongs to somebody else: clone your own"; exit 1; }
    mkdir -p -m 0700 "$state"
    make_venv
    watched=pyproject.toml
    install_program .linked -e .
    cp etc/smtpd.conf.sample "$state/smtpd.conf"
    recipient=$(id -un)
    method="maildir \"$state/Maildir\""
    lands=$state/Maildir/new/
fi
ln -sf smtpctl "$venv/bin/sendmail"
ln -sf smtpctl "$venv/bin/mailq"

cat >&2 <<END

pysmtpd listens on 127.0.0.1 port $port.  Stop it with Control-C.  To send a first message, in another terminal:

    printf 'Subject: first\n\nIt works.\n' | PYSMTPD_STATE_DIR=$state $venv/bin/sendmail $recipient

It will be in $lands
What the daemon knows:  $venv/bin/smtpctl --state-dir $state show stats
The configuration it runs with, explained line by line:  $state/smtpd.conf

END
exec "$venv/bin/pysmtpd" -dv --state-dir "$state" -f "$state/smtpd.conf" -D "smtp_port=$port" -D "delivery=$method"
