#!/bin/bash
#
# Resolves the requirement files anew and writes constraints.txt: one set of
# versions for every supported Python (3.11 and later), so that neither the
# tests nor the lab change under us when somebody publishes a release.

set -euo pipefail

. "$(dirname "$0")/lib/setup.sh"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python=$(find_python) || die 'no Python >= 3.11 found'
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" --quiet --disable-pip-version-check install uv

cd "$ROOT"
{
    printf '# Written by tools/update-constraints.sh; do not edit.\n'
    "$scratch/venv/bin/uv" --quiet pip compile --universal \
        --python-version 3.11 --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links \
        requirements.txt test-requirements.txt doc/requirements.txt
} >"$scratch/constraints.txt"
mv "$scratch/constraints.txt" constraints.txt
say "constraints.txt: $(grep -c == constraints.txt) packages"
