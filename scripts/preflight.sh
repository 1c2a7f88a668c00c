#!/bin/sh
# Says in one line what a machine lacks before set-up starts.
python=$1
command -v "$python" >/dev/null 2>&1 || { echo "lumina needs Python 3.11 or newer: install python3 (Debian: apt install python3 python3-venv), or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lumina needs Python 3.11 or newer, and $python is $("$python" -V 2>&1): make PYTHON=/path/to/python3.11" >&2; exit 1; }
"$python" -c 'import venv, ensurepip' 2>/dev/null || { echo "$python has no venv module: install it (Debian: apt install python3-venv)" >&2; exit 1; }
free=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
[ "$free" -ge 4 ] || { echo "set-up needs 4 GiB of disk, and only $free GiB are free here: free some, or clone elsewhere" >&2; exit 1; }
