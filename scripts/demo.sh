#!/bin/sh
# The main job, end to end, in the sandbox: plan on a live market, rent, train on real text over SSH, lose the machine, go on, pay.
# Needs `lumina` on PATH. Nothing is paid: the three clouds are emulated on this machine, their machines are real SSH servers.
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

say "1. What would it take? Two plans from the price book, and one on the live market of the sandbox"
run lumina plan debug --arch all
run lumina plan b7 --arch mod
run lumina sandbox up
trap 'lumina sandbox down > /dev/null' EXIT
run lumina plan debug --arch mod --gpu 4090 --tokens 1.5M --global-batch 8192 --live --sandbox

say "2. Rent a 4090 from Vast.ai's emulation and train there; the machine is taken away once, on purpose"
run lumina sandbox faults preempted --provider vastai --at-seconds "${LUMINA_DEMO_INTERRUPT_SECONDS:-40}"
run lumina launch --provider vastai --gpu 4090 --sandbox --tokens 1.5M --global-batch 8192 --max-cost 2 --follow --yes || echo "(exit code $?)"
if [ "$(lumina status --sandbox --json | grep -c '"state":"succeeded"')" = 0 ]; then
    say "3. It was interrupted. Go on from the last checkpoint, on another machine"
    run lumina resume last --follow --yes --sandbox
fi

say "4. What came of it, and what it cost: by the ledger, and by the provider's own invoice"
run lumina results last --sandbox
run lumina costs --sandbox
run lumina sandbox status
run lumina report --sandbox

say "Done. Nothing is left running. The runs, their files and the ledger are in $LUMINA_HOME/sandbox"
