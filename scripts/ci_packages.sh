#!/bin/sh
# What tests use of Debian's where the machine allows it: a database server, OpenSSH, a browser, a C++ compiler. Without them the tests
# that need them are skipped by name.
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "tests that need postgresql, openssh-server, chromium or g++ are skipped where they are missing (no root, or no apt-get)"
    exit 0
fi
missing=""
command -v sshd >/dev/null 2>&1 || [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium fonts-dejavu-core"
command -v g++ >/dev/null 2>&1 || missing="$missing g++"
[ -n "$missing" ] || exit 0
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of names
{ timeout 300 apt-get update -q && timeout 600 apt-get install -y -q --no-install-recommends $missing; } >/tmp/ci-packages.log 2>&1 ||
    { echo "could not install$missing: the tests that need them are skipped by name"; tail -3 /tmp/ci-packages.log; }
exit 0
