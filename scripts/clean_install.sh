#!/bin/sh
# The wheel as a stranger gets it: built, installed into a clean environment of each supported Python that this machine has, and used from
# an empty folder, beside packages of others that are also named `providers` and `trainer`. Needs a package registry. The versions that
# were tried are printed; those that are missing are named.
#
#   sh scripts/clean_install.sh [PYTHON…]      by default python3.11 to python3.14
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Nothing of the caller's, not even where this checkout is.
pyenv=$(pyenv root 2>/dev/null || true)
unset PYTHONPATH LUMINA_HOME LUMINA_LEDGER_URL LUMINA_SANDBOX
export HOME="$work/home" NO_COLOR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$HOME" "$work/empty" "$work/foreign/providers" "$work/foreign/trainer"

"$root/.venv/bin/python" -m hatchling build -t wheel -d "$work/dist" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
version=$("$root/.venv/bin/python" -c 'import lumina_cloud; print(lumina_cloud.__version__)')
case $wheel in *"-$version-"*) ;; *) echo "$wheel is not version $version" >&2; exit 1 ;; esac

for package in providers trainer; do
    echo "foreign = True" >"$work/foreign/$package/__init__.py"
    echo "" >"$work/foreign/$package/of_somebody_else.py"
done

# Prints a Python of that version: one that is on PATH, else one of pyenv's.
found() {
    for python in "$1" "$pyenv/versions/${1#python}"*/bin/python; do
        if "$python" -c 'import venv' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

# With nothing of the caller's, a registry that only the caller's own settings name is not there either: that is no fault of the wheel.
if ! "$root/.venv/bin/python" -m pip download --quiet --no-deps -d "$work/probe" typer >"$work/registry.log" 2>&1; then
    echo "not tried: no package registry answers here without the caller's settings: $(tail -1 "$work/registry.log")"
    exit 0
fi

tried=""
for wanted in ${*:-python3.11 python3.12 python3.13 python3.14}; do
    python=$(found "$wanted")
    if [ -z "$python" ]; then
        echo "not tried: $wanted is not here"
        continue
    fi
    rm -rf "$work/venv"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "$wheel"
    cd "$work/empty"
    test "$("$work/venv/bin/lumina" --version)" = "lumina $version"
    "$work/venv/bin/lumina" plan b7 --arch mod --json >"$work/plan.json"
    grep -q '"recommendation":{' "$work/plan.json"
    "$work/venv/bin/lumina" costs --json | grep -q '"total_usd":"0.00"'
    "$work/venv/bin/python" -c 'from lumina_cloud import Lumina, WorkloadRequest; import providers.registry, trainer.config'
    # Another distribution of the same name lands in the same folder: its files are added, its __init__.py takes the place of ours.
    cp -r "$work"/foreign/* "$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/"
    "$work/venv/bin/lumina" plan debug --json >"$work/plan.json"
    "$work/venv/bin/python" -c 'import providers, trainer, providers.of_somebody_else, providers.registry; assert providers.foreign and trainer.foreign'
    tried="$tried $("$work/venv/bin/python" -c 'import platform; print(platform.python_version())')"
    cd "$root"
done
uvx=$(command -v uvx || true)
if [ -z "$uvx" ]; then
    "$root/.venv/bin/python" -m venv "$work/uv"
    "$work/uv/bin/python" -m pip install --quiet uv 2>"$work/uv.log" && uvx="$work/uv/bin/uvx"
fi
if [ -n "$uvx" ] && (cd "$work/empty" && "$uvx" --quiet --from "$wheel" lumina --version) >"$work/uvx.out" 2>"$work/uvx.log"; then
    test "$(cat "$work/uvx.out")" = "lumina $version"
    tried="$tried uvx"
else
    echo "not tried: uvx cannot install here: $(tail -1 "$work/uvx.log" 2>/dev/null || tail -1 "$work/uv.log")"
fi
test -n "$tried"
echo "$(basename "$wheel") installs and plans with:$tried"
