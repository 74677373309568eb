#!/bin/bash
#
# Sets up and runs the tests: tools/run-tests.sh [unit|functional|system|style]…
# Without a tier it runs all of them. Works on a fresh Debian 12 or 13, as root
# or with sudo; what it installs beside Debian packages is under
# ${XDG_CACHE_HOME:-~/.cache}/nova-isolation. Writes test-report.json into the
# checkout. Exit status 0 only when everything passed.

set -euo pipefail

. "$(dirname "$0")/lib/setup.sh"

profiles="test"
for tier in "$@"; do
    case $tier in
        unit | functional | system | style) ;;
        *)
            say "usage: ${0##*/} [unit|functional|system|style]…" >&2
            exit 2
            ;;
    esac
done
case " ${*:-system} " in
    *' system '*)
        profiles='test lab'
        # The lab makes namespaces.
        require_root
        ;;
esac

# shellcheck disable=SC2086  # a list of words
require_packages $profiles
require_venv

cd "$ROOT"
exec "$VENV/bin/python" -m tools.runner "$@"
