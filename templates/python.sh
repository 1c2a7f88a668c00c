#!/bin/sh
# Runs the interpreter that trains: one of ours if the bootstrap made one, else the first that has torch, else the first there is.
# It is looked for once; `venv` beside the bundle is the bootstrap's.
if [ -x venv/bin/python ]; then
    exec venv/bin/python "$@"
fi
if [ -r bundle/.python ]; then
    exec "$(cat bundle/.python)" "$@"
fi
best=
for candidate in "${LUMINA_PYTHON:-}" python3 /opt/conda/bin/python3 /venv/main/bin/python3 /usr/bin/python3 python; do
    [ -n "$candidate" ] && command -v "$candidate" > /dev/null 2>&1 || continue
    : "${best:=$candidate}"
    if "$candidate" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2> /dev/null; then
        best=$candidate
        break
    fi
done
[ -n "$best" ] || { echo "no Python on this machine" >&2; exit 127; }
mkdir -p bundle && printf '%s' "$best" > bundle/.python
exec "$best" "$@"
