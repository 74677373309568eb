#!/bin/bash
#
# Shows the main job, on real parts, in the terminal: tools/demo.sh [IMAGE]
# (trixie or bookworm). Works on a fresh Debian 12 or 13, as root or with sudo;
# what it installs beside Debian packages is under
# ${XDG_CACHE_HOME:-~/.cache}/nova-isolation. Writes demo-report.json into the
# checkout. Exit status 0 only when every step was observed.

set -euo pipefail

. "$(dirname "$0")/lib/setup.sh"

image=${1:-trixie}
report=$ROOT/demo-report.json
scratch=$(mktemp -d)
steps=$scratch/steps
: >"$steps"
trap 'rm -rf "$scratch"' EXIT

# observed NAME SECONDS EVIDENCE: note a step that was done
observed() {
    python3 -c 'import json, sys
name, seconds, evidence = sys.argv[1:]
print(json.dumps({"name": name, "ok": True, "seconds": float(seconds),
                  "evidence": evidence}))' "$@" >>"$steps"
}

# not_observed NAME SECONDS EVIDENCE: write the report of a story that ended
# before Nova ran
not_observed() {
    python3 -c 'import json, sys
path, before, name, seconds, evidence = sys.argv[1:]
steps = [json.loads(line) for line in open(before)]
steps.append({"name": name, "ok": False, "seconds": float(seconds),
              "evidence": evidence})
with open(path, "w") as f:
    json.dump({"ok": False, "seconds": sum(s["seconds"] for s in steps),
               "steps": steps}, f, indent=2)' "$report" "$steps" "$@"
}

rm -f "$report"
say 'nova-isolation: two guests of one compute node, one of them captured.'
say
say ' 1. What is needed is there …'
start=$SECONDS
require_packages lab
require_venv
observed 'what is needed is there' $((SECONDS - start)) \
    "Debian packages of bindep.txt, Python environment $VENV"

say
say " 2. The lab is built: a kernel with AppArmor, libvirt, QEMU, all of Nova …"
start=$SECONDS
if ! "$ROOT/lab/lab" build "$image"; then
    not_observed 'the lab is built' $((SECONDS - start)) 'lab/lab build failed'
    exit 1
fi
observed 'the lab is built' $((SECONDS - start)) "image $image"

say
say ' 3. RabbitMQ, MariaDB, placement, glance, nova-api, conductor, scheduler'
say '    start, and nova-compute with compute_driver = isolation.LibvirtDriver …'
start=$SECONDS
status=0
"$ROOT/lab/lab" run --image "$image" --with nova --timeout 600 -- \
    "$VENV/bin/python" -W ignore "$ROOT/tools/demo.py" "$report" "$steps" \
    "$(date +%s.%N)" || status=$?
if [ ! -e "$report" ]; then
    not_observed 'the whole of Nova starts' $((SECONDS - start)) \
        "lab/lab run ended with $status"
fi
say
if [ "$status" -eq 0 ]; then
    say "Every step was observed, in $SECONDS s. Report: $report"
else
    say "NOT every step was observed. Report: $report"
    exit 1
fi
