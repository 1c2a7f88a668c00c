#!/bin/sh
# The main job, end to end, on this machine: plan, launch, train on real text, results, costs. Needs `lumina` on PATH.
# Everything is kept in ./demo, apart from your own ledger. Each command is printed before it runs, so that you can type it.
set -eu
cd "$(dirname "$0")/.."
LUMINA_HOME=${LUMINA_HOME:-$PWD/demo}
export LUMINA_HOME

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

say "Everything below is kept in $LUMINA_HOME"
printf '$ export LUMINA_HOME=%s\n' "$LUMINA_HOME"

say "1. What would it take? Two plans, before anything is rented"
run lumina plan debug --arch all
run lumina plan b7 --arch mod

say "2. Train, for real: two architectures, on this machine's CPU"
run lumina launch debug --arch dense --provider local --tokens 1.5M --global-batch 8192 --max-cost 0.10 --follow --yes
run lumina launch debug --arch hybrid --provider local --tokens 1.5M --global-batch 8192 --max-cost 0.10 --follow --yes

say "3. What came of it, and what it cost"
run lumina status
run lumina results last
run lumina costs
run lumina report

say "Done. The runs, their files and the ledger are in $LUMINA_HOME"
