# shellcheck shell=bash
#
# What tools/run-tests.sh and tools/demo.sh need before they can start, on a
# machine where nothing is prepared: Debian packages of bindep.txt and one
# Python environment outside the checkout.
#
# Sourced, not run. Callers use:
#
#   require_packages PROFILE...   install what is missing of bindep.txt
#   require_root                  be root, or let sudo ask for the password now
#   require_venv                  make or find the environment; sets VENV
#   step TEXT COMMAND...          run a long command, show how long it took
#   say TEXT / die TEXT
#
# and find the checkout in ROOT and the cache directory in CACHE.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/nova-isolation
POLICY_RC_D=/usr/sbin/policy-rc.d
POLICY_MARK='# nova-isolation: services stay off while packages are installed'

export LC_ALL=C.UTF-8
# What an activated environment or a user's own packages would bring in must
# not decide what the tests see.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE=1

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# step TEXT COMMAND...: the command's output goes to a log that is shown only
# when the command fails. An interrupt ends the command and then the program;
# with FINISH_STEP=yes it lets the command end first.
step() {
    local text=$1 start=$SECONDS log status=0 ticker="" pid
    shift
    mkdir -p "$CACHE"
    log=$(mktemp "$CACHE/step.XXXXXX")
    if [ -t 1 ]; then
        (
            while sleep 1; do
                printf '\r%s … %d s ' "$text" $((SECONDS - start))
            done
        ) &
        ticker=$!
    else
        printf '%s …\n' "$text"
    fi
    # A process group of its own: ^C reaches this shell alone, which then
    # decides, and all of the command's children can be ended at once.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'interrupt_step "$pid" "$ticker" "$log"' INT TERM HUP
    wait "$pid" || status=$?
    trap - INT TERM HUP
    if [ -n "$ticker" ]; then
        kill "$ticker" 2>/dev/null
        wait "$ticker" 2>/dev/null
        printf '\r'
    fi
    if [ "$status" -ne 0 ]; then
        printf '%s … failed after %d s:\n' "$text" $((SECONDS - start))
        tail -n 40 "$log" | sed 's/^/    /'
        rm -f "$log"
        return "$status"
    fi
    printf '%s … %d s\n' "$text" $((SECONDS - start))
    rm -f "$log"
}

interrupt_step() {
    trap '' INT TERM HUP
    # The caller's: here every status is looked at or does not matter.
    set +e
    [ -z "$2" ] || kill "$2" 2>/dev/null
    if [ "${FINISH_STEP:-no}" = yes ]; then
        printf '\nInterrupted: the step that runs has to end first …\n'
    else
        kill -TERM -- "-$1" 2>/dev/null
    fi
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" 2>/dev/null
    done
    rm -f "$3"
    exit 130
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        printf 'neither root nor sudo: cannot run %s\n' "$*" >&2
        return 1
    fi
}

# Ask for the password at the start, not inside a step that hides the question.
require_root() {
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die 'neither root nor sudo'
        sudo -v || die 'root is needed, and sudo does not give it'
    fi
}

# packages_of PROFILE...: the names in bindep.txt that apply here, one a line.
# Understands what the file uses: a name, and in brackets `platform:dpkg` and
# profiles, of which one has to match.
packages_of() {
    local line name tags tag wanted profiles
    while read -r line; do
        line=${line%%#*}
        read -r name tags <<<"$line"
        [ -n "$name" ] || continue
        tags=${tags#[}
        tags=${tags%]*}
        wanted=no profiles=no
        for tag in $tags; do
            case $tag in
                platform:dpkg) ;;
                platform:*) continue 2 ;;
                *)
                    profiles=yes
                    case " $* " in *" $tag "*) wanted=yes ;; esac
                    ;;
            esac
        done
        if [ "$profiles" = no ] || [ "$wanted" = yes ]; then
            printf '%s\n' "$name"
        fi
    done <"$ROOT/bindep.txt"
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_packages() {
    local name
    for name in $(packages_of "$@"); do
        is_installed "$name" || printf '%s\n' "$name"
    done
}

# Debian starts the services of a package that it installs. A tester's machine
# gets no broker because somebody ran our tests.
services_off() {
    if [ -e "$POLICY_RC_D" ]; then
        # Ours, left by a run that was killed, or the machine's own.
        return 0
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" \
        | as_root tee "$POLICY_RC_D" >/dev/null \
        && as_root chmod 755 "$POLICY_RC_D"
}

services_restore() {
    if grep -qsF "$POLICY_MARK" "$POLICY_RC_D"; then
        as_root rm -f "$POLICY_RC_D"
    fi
}

install_packages() {
    local unit status=0 broker=no
    is_installed rabbitmq-server || broker=yes
    as_root apt-get -q update || return
    services_off || return
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -o DPkg::Lock::Timeout=600 install \
        --no-install-recommends "$@" || status=$?
    services_restore
    if [ "$broker" = yes ] && command -v systemctl >/dev/null; then
        for unit in rabbitmq-server.service epmd.service epmd.socket; do
            # Not at the next boot either; where there is no systemd the
            # links alone are removed, and nothing has to be stopped.
            as_root systemctl disable "$unit" || true
        done
    fi
    return "$status"
}

# Two runs on a machine take turns.
locked_install_packages() {
    local names
    exec 8>"$CACHE/packages.lock"
    flock 8
    mapfile -t names < <(missing_packages "$@")
    [ "${#names[@]}" -eq 0 ] || install_packages "${names[@]}" 8>&-
    exec 8>&-
}

require_packages() {
    local names
    command -v dpkg-query >/dev/null || die \
        'this is not Debian: install the packages of bindep.txt yourself'
    mapfile -t names < <(missing_packages "$@")
    [ "${#names[@]}" -gt 0 ] || return 0
    mkdir -p "$CACHE"
    require_root
    # dpkg interrupted half-way leaves work for the administrator.
    FINISH_STEP=yes step "Installing Debian packages: ${names[*]}" \
        locked_install_packages "$@" || die 'apt-get failed'
}

# A Python that is new enough: the distribution's when it is, since
# python3-dev and python3-venv belong to that one.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

pip_install() {
    "$VENV/bin/python" -m pip --disable-pip-version-check install \
        --quiet --no-warn-script-location -c "$ROOT/constraints.txt" "$@"
}

make_venv() {
    "$1" -m venv "$VENV" || return
    pip_install -r "$ROOT/requirements.txt" -r "$ROOT/test-requirements.txt" \
        -r "$ROOT/doc/requirements.txt" setuptools
}

# The project itself: its programs and entry points, editable.
install_project() {
    local PBR_VERSION=${PBR_VERSION:-}
    if [ -z "$PBR_VERSION" ] && [ "$(git -C "$ROOT" rev-parse \
        --is-shallow-repository 2>/dev/null)" != false ]; then
        # pbr counts commits since the last tag: here there are none to count.
        PBR_VERSION=0.0.1.dev0
    fi
    if [ -n "$PBR_VERSION" ]; then
        export PBR_VERSION
    fi
    SKIP_GENERATE_AUTHORS=1 SKIP_WRITE_GIT_CHANGELOG=1 pip_install \
        --no-deps --no-build-isolation --editable "$ROOT"
}

# The checkout may belong to somebody else than the user who tests it (a
# container's root): git then refuses to read it, and pbr, reno and pre-commit
# fail without saying why.
trust_checkout() {
    local count=${GIT_CONFIG_COUNT:-0}
    export "GIT_CONFIG_KEY_$count=safe.directory"
    export "GIT_CONFIG_VALUE_$count=$ROOT"
    export GIT_CONFIG_COUNT=$((count + 1))
}

# require_venv: VENV is complete when it returns. An environment cannot be
# built elsewhere and renamed (its programs name their interpreter), so a
# marker that is written last tells a complete one from one that was
# interrupted; a lock makes two runs take turns.
require_venv() {
    local python key project
    python=$(find_python) || die 'no Python >= 3.11 found'
    trust_checkout
    # One environment per checkout: the editable install points to one.
    key=$(
        {
            "$python" -c 'import sys; print(sys.version, sys.executable)'
            printf '%s\n' "$ROOT"
            cat "$ROOT/constraints.txt" "$ROOT/requirements.txt" \
                "$ROOT/test-requirements.txt" "$ROOT/doc/requirements.txt"
        } | sha256sum | cut -c1-16
    )
    project=$(cd "$ROOT" && cat pyproject.toml setup.cfg setup.py \
        | sha256sum | cut -c1-16)
    VENV=$CACHE/venv-$key
    mkdir -p "$CACHE"
    exec 9>"$VENV.lock"
    if ! flock -n 9; then
        say 'Waiting for another run that prepares the same environment …'
        flock 9
    fi
    if [ ! -e "$VENV/complete" ]; then
        rm -rf "$VENV"
        step "Building the Python environment $VENV" make_venv "$python" 9>&- \
            || die 'the Python environment could not be built'
        touch "$VENV/complete"
    fi
    if [ ! -e "$VENV/project-$project" ]; then
        rm -f "$VENV"/project-*
        step 'Installing the project (editable)' install_project 9>&- \
            || die 'the project could not be installed'
        touch "$VENV/project-$project"
    fi
    exec 9>&-
    export PATH="$VENV/bin:$PATH"
}
