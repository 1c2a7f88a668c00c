#!/bin/sh
# A stranger's path: from an empty home to a trained and exported model with what README says to type, taken from README itself.
# Its blocks marked "path" are run as they stand, in this checkout. Nothing is paid: it all happens in the sandbox.
set -eu
cd "$(dirname "$0")/.."
home=$(mktemp -d)
unset XDG_DATA_HOME LUMINA_HOME LUMINA_LEDGER_URL LUMINA_SANDBOX RUNPOD_API_KEY VAST_API_KEY LAMBDA_API_KEY
export HOME="$home" NO_COLOR=1
end() {
    .venv/bin/lumina sandbox down > "$home/down" 2>&1 || cat "$home/down"
    rm -rf "$home"
}
trap end EXIT
# A shell that is ended runs what it owes only if it leaves by itself.
trap 'exit 130' INT TERM HUP
rm -rf build/my-model
# Set up first, so that what is timed is what a stranger waits for after it; README's own `make setup` then has nothing to do.
make setup
began=$(date +%s)
python3 scripts/run_page.py README.md path
test "$(.venv/bin/lumina results last --sandbox --json | grep -c '"state":"succeeded"')" = 1
for file in config.json model.safetensors tokenizer.json README.md; do
    test -s "build/my-model/$file"
done
echo "README's path: a trained and exported model in $(($(date +%s) - began)) s beyond set-up"
