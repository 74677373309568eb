#!/bin/bash
#
# Checks a compute node, changing nothing:
#
#   tools/check-host.sh [--config-file FILE]...
#       [--attack GUEST VICTIM [--agent-log FILE]]
#
# Is everything there that nova-isolation needs, is it configured, do its
# services run, does the kernel record what it denies and does the agent get it
# to RabbitMQ; and then for every guest that Nova runs: does each thread of its
# QEMU have the guest's own profile in the configured mode, does the kernel hold
# just the policy that the profile's file compiles to, and does the kernel,
# asked, keep it off the disks of the other guests?
#
# With --attack it does the main job: it lets the QEMU of GUEST open a disk of
# VICTIM (uuids of two running servers of your own), which has to be denied,
# recorded by the kernel, and reported by the agent: in FILE, or in the journal
# of the unit nova-isolation-agent. A disk that could be opened is closed again.
#
# Run it as root. Without --config-file it reads /etc/nova/nova.conf,
# /etc/nova/nova-compute.conf and /etc/nova/nova.conf.d/. Exit status 0 only when
# all is well.

set -uo pipefail
export LC_ALL=C.UTF-8

APPARMOR=/sys/kernel/security/apparmor
CAP_AUDIT_READ=37
# of the kernel's masks: write, read, append
ACCESS=$((0x2 | 0x4 | 0x8))

bad=0
configuration=()

good() {
    printf '  ok    %s\n' "$*"
}

wrong() {
    printf '  WRONG %s\n' "$*"
    bad=$((bad + 1))
}

# option GROUP NAME DEFAULT: the last value in the configuration files
option() {
    local value
    value=$(cat -- "${configuration[@]}" 2>/dev/null | awk \
        -v group="[$1]" -v name="$2" '
        /^[[:space:]]*\[/ { gsub(/[[:space:]]/, ""); here = ($0 == group) }
        here && $0 ~ "^" name "[[:space:]]*[=:]" {
            sub(/^[^=:]*[=:][[:space:]]*/, ""); sub(/[[:space:]]+$/, "")
            value = $0
        }
        END { print value }')
    printf '%s\n' "${value:-$3}"
}

# worth knowing, and no fault
note() {
    printf '  note  %s\n' "$*"
}

# has PATTERN...: grep -q that reads to the end: its writer gets no SIGPIPE,
# which pipefail would take for a failure.
has() {
    grep -c "$@" >/dev/null
}

check_kernel() {
    printf 'Kernel %s\n' "$(uname -r)"
    if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ]; then
        good 'runs with AppArmor'
    else
        wrong 'runs without AppArmor: boot it with apparmor=1 security=apparmor'
    fi
    if [ -d "$APPARMOR/policy/profiles" ]; then
        good 'shows its policy'
    else
        wrong "shows no policy: mount securityfs at /sys/kernel/security"
    fi
}

check_parser() {
    local problem
    printf 'Parser %s\n' "$parser"
    if ! [ -x "$parser" ]; then
        wrong 'cannot be run: install the package apparmor'
    elif [ -n "$(find -L "$parser" '(' ! -uid 0 -o -perm /022 ')')" ]; then
        wrong 'can be written by others than root'
    elif problem=$(printf 'profile nova-isolation-check {\n}\n' | "$parser" -QTS 2>&1 >/dev/null); then
        good 'compiles'
    else
        wrong "does not compile an empty profile: $problem"
    fi
}

check_libvirt() {
    local conf=/etc/libvirt/qemu.conf
    printf 'libvirt %s\n' "$(virsh --version 2>/dev/null)"
    if virsh "${virsh[@]}" capabilities 2>/dev/null \
        | has '<model>apparmor</model>'; then
        good 'runs with its AppArmor driver'
    else
        wrong "does not answer, or runs without its AppArmor driver: see $conf"
    fi
    if grep -Eqs '^\s*security_driver\s*=.*"apparmor"' "$conf"; then
        good "$conf names the driver"
    else
        wrong "$conf does not say security_driver = \"apparmor\": a libvirtd" \
            'that is not confined itself would use none, silently'
    fi
}

# running PROGRAM: the process ids of a Python program, also of one that gave
# itself a title (PROGRAM: worker)
running() {
    local file
    for file in /proc/[0-9]*/cmdline; do
        # A process may end while it is looked at.
        if { tr '\0' '\n' <"$file"; } 2>/dev/null | sed -n 1,2p \
            | has -E "(^|/)$1([: ]|\$)"; then
            file=${file%/cmdline}
            printf '%s\n' "${file#/proc/}"
        fi
    done
}

check_nova() {
    local driver pids
    printf 'nova-compute\n'
    driver=$(option DEFAULT compute_driver '')
    if [ "$driver" = isolation.LibvirtDriver ]; then
        good 'compute_driver is isolation.LibvirtDriver'
    else
        wrong "[DEFAULT] compute_driver is '$driver', not isolation.LibvirtDriver"
    fi
    case $mode in
        enforce) good '[isolation] mode is enforce' ;;
        complain) wrong '[isolation] mode is complain: nothing is denied' ;;
        *) wrong "[isolation] mode is $mode: nothing of ours confines" ;;
    esac
    mapfile -t pids < <(running nova-compute)
    if [ "${#pids[@]}" -gt 0 ]; then
        good "runs: ${pids[*]}"
    else
        wrong 'does not run'
    fi
}

check_agent() {
    local pid pids capable=no spool effective waiting
    printf 'nova-isolation-agent\n'
    mapfile -t pids < <(running nova-isolation-agent)
    for pid in "${pids[@]}"; do
        effective=$(awk '/^CapEff:/ { print $2 }' "/proc/$pid/status" 2>/dev/null)
        if ((16#${effective:-0} >> CAP_AUDIT_READ & 1)); then
            capable=yes
        fi
    done
    if [ "${#pids[@]}" -eq 0 ]; then
        wrong 'does not run: nobody reports denials'
    elif [ "$capable" = no ]; then
        wrong 'runs without CAP_AUDIT_READ: it cannot read audit records'
    else
        good "runs: ${pids[*]}"
    fi
    spool=$(option isolation spool_directory /var/lib/nova-isolation/spool)
    waiting=$(find "$spool" -name '*.json' -mmin +1 2>/dev/null | wc -l)
    if ! [ -d "$spool" ] && ! [ -d "${spool%/*}" ]; then
        wrong "${spool%/*} is missing, where nova-compute makes its spool"
    elif [ "$waiting" -gt 0 ]; then
        wrong "$waiting events of nova-compute wait in $spool for more than a" \
            'minute: the agent does not take them into its journal'
    else
        good 'no event waits in the spool'
    fi
    check_journal
}

# What the journal tells: "waiting N", "canary SECONDS-AGO", "lost N".
JOURNAL='
import sqlite3, sys, time, urllib.parse
now = time.time()
db = sqlite3.connect(
    "file:%s?mode=ro" % urllib.parse.quote(sys.argv[1]), uri=True, timeout=5
)
def ask(query, *values):
    return db.execute(query, values).fetchone()[0]
print("waiting", ask(
    "SELECT count(*) FROM events WHERE sent IS NULL AND time < ?", now - 300
))
canary = ask(
    "SELECT max(time) FROM events WHERE event_type = ?"
    " AND sent IS NOT NULL AND failure IS NULL", "isolation.agent.canary"
)
print("canary", "never" if canary is None else int(now - canary))
print("lost", ask(
    "SELECT count(*) FROM events WHERE event_type = ? AND time > ?",
    "isolation.lost", now - 86400
))
'

check_journal() {
    local journal interval found waiting canary lost
    journal=$(option isolation journal_directory /var/lib/nova-isolation)
    journal=$journal/journal.sqlite
    interval=$(option isolation canary_interval 3600)
    if ! found=$(python3 -c "$JOURNAL" "$journal" 2>&1); then
        wrong "the journal $journal cannot be read: ${found##*$'\n'}"
        return
    fi
    waiting=$(awk '$1 == "waiting" { print $2 }' <<<"$found")
    canary=$(awk '$1 == "canary" { print $2 }' <<<"$found")
    lost=$(awk '$1 == "lost" { print $2 }' <<<"$found")
    if [ "$waiting" -gt 0 ]; then
        wrong "$waiting events wait in the journal for more than 5 minutes:" \
            'is RabbitMQ reachable?'
    else
        good 'no event waits in the journal'
    fi
    if [ "$interval" = 0 ]; then
        note '[isolation] canary_interval is 0: nobody tests the whole way'
    elif [ "$canary" = never ] || [ "$canary" -gt $((2 * interval)) ]; then
        wrong "the last denial of the agent's own that arrived: $canary" \
            '(seconds ago): nova-isolation violations says where others ended'
    else
        good "a denial of the agent's own arrived $canary seconds ago"
    fi
    [ "$lost" -eq 0 ] || note "$lost events isolation.lost of the last day:" \
        'nova-isolation violations --since 1d'
}

# What the kernel says of its audit: "limit N", "rate N", "lost N".
AUDIT='
import socket, struct
ask = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
ask.settimeout(2)
ask.sendto(struct.pack("=IHHII", 16, 1000, 1, 1, 0), (0, 0))
while True:
    data = ask.recv(8192)
    if struct.unpack_from("=H", data, 4)[0] == 1000:
        break
rate, limit, lost = struct.unpack_from("=4x4x4x4xIII", data, 16)
print("rate", rate)
print("limit", limit)
print("lost", lost)
'

check_audit() {
    local loaded found log user pid rate limit lost wanted held
    local audit=/sys/module/apparmor/parameters/audit
    printf 'Audit\n'
    if has -w 'audit=0' </proc/cmdline; then
        wrong 'is off: take audit=0 from the command line of the kernel'
    elif grep -qsx 'quiet\|quiet_denied' "$audit"; then
        wrong "records no denials of AppArmor: echo normal > $audit"
    else
        good 'records denials'
    fi
    loaded=$(cat "$APPARMOR"/policy/profiles/nova-isolation-canary.*/mode 2>/dev/null)
    if [ "$loaded" = enforce ]; then
        good "the profile of the agent's canary is loaded"
    elif [ "$(option isolation canary_interval 3600)" != 0 ]; then
        wrong 'the profile nova-isolation-canary is not loaded: copy it from' \
            'etc/apparmor.d to /etc/apparmor.d and apparmor_parser -r it'
    fi
    if found=$(python3 -c "$AUDIT" 2>/dev/null); then
        rate=$(awk '$1 == "rate" { print $2 }' <<<"$found")
        limit=$(awk '$1 == "limit" { print $2 }' <<<"$found")
        lost=$(awk '$1 == "lost" { print $2 }' <<<"$found")
        [ "$rate" -eq 0 ] || note "the kernel drops what is beyond $rate" \
            'records a second: auditctl -r 0'
        [ "$limit" -eq 0 ] || [ "$limit" -ge 8192 ] || note "the kernel" \
            "drops denials when $limit records wait: auditctl -b 8192"
        [ "$lost" -eq 0 ] || note "the kernel has lost $lost records since" \
            'the boot'
    fi
    wanted=$(($(option isolation audit_buffer 32) * 1048576))
    held=$(cat /proc/sys/net/core/rmem_max)
    [ "$held" -ge "$wanted" ] || note "a flood overruns the agent after" \
        "$((held / 1024)) KiB: sysctl net.core.rmem_max=$wanted"
    log=$(option isolation audit_log /var/log/audit/audit.log)
    pid=$(running nova-isolation-agent | head -n 1)
    user=$(stat -c %U "/proc/${pid:-self}" 2>/dev/null)
    if [ -n "$log" ] && [ -e "$log" ] && [ -n "$user" ] \
        && ! runuser -u "$user" -- test -r "$log" 2>/dev/null; then
        note "the agent's user $user cannot read $log:" \
            "log_group = $user in auditd.conf"
    fi
}

# may PROFILE PATH: succeeds when the kernel allows that label the file
may() {
    local answer='' mask
    exec 3<>"$APPARMOR/.access" || return 2
    printf 'label\0%s\0\x02%s' "$1" "$2" >&3
    IFS= read -r -d '' answer <&3
    exec 3<&-
    mask=$(awk '$1 == "allow" { print $2 }' <<<"$answer")
    [ -n "$mask" ] || return 2
    (((mask & ACCESS) != 0))
}

disks_of() {
    virsh "${virsh[@]}" domblklist --details "$1" 2>/dev/null \
        | sed -nE 's/^ *file +[a-z]+ +[^ ]+ +//p' | grep -v '^-$'
}

check_guest() {
    local uuid=$1 name=$2 profile=libvirt-$1 pid label loaded tool threads=0
    local file=$directory/$profile before=$bad digest held='' other path status
    printf 'Guest %s (%s)\n' "$uuid" "$name"
    pid=$(cat "$runtime/$name.pid" 2>/dev/null)
    if ! { tr '\0' '\n' <"/proc/${pid:-none}/cmdline"; } 2>/dev/null \
        | has -x -- "$uuid"; then
        wrong "its process cannot be found through $runtime/$name.pid"
        return
    fi
    for path in "/proc/$pid/task/"*; do
        label=$(cat "$path/attr/apparmor/current" 2>/dev/null \
            || cat "$path/attr/current" 2>/dev/null)
        threads=$((threads + 1))
        [ "$label" = "$profile ($mode)" ] \
            || wrong "thread ${path##*/} runs as '$label'"
    done
    [ "$bad" -gt "$before" ] \
        || good "$threads threads of process $pid run as $profile ($mode)"

    for tool in sha256 sha1; do
        for loaded in "$APPARMOR/policy/profiles/$profile".*/"raw_$tool"; do
            [ -e "$loaded" ] || continue
            held=$(cat "$loaded")
            digest=$("$parser" -QTS "$file" 2>/dev/null | "${tool}sum")
            digest=${digest%% *}
            break 2
        done
    done
    if ! head -n 1 "$file" 2>/dev/null | has nova-isolation; then
        wrong "$file is not ours: start the guest anew through Nova"
    elif [ -z "$held" ]; then
        wrong "the kernel shows no digest of $profile"
    elif [ "$held" = "$digest" ]; then
        good "the kernel holds just the policy of $file: $tool $held"
    else
        wrong "the kernel holds another policy than $file compiles to"
    fi

    before=$bad
    for other in "${uuids[@]}"; do
        [ "$other" != "$uuid" ] || continue
        while read -r path; do
            may "$profile" "$path"
            status=$?
            if [ "$status" -eq 0 ]; then
                wrong "may reach $path of $other"
            elif [ "$status" -eq 2 ]; then
                wrong 'the kernel does not answer what the profile grants'
            fi
        done < <(disks_of "$other")
    done
    if [ "$bad" -eq "$before" ] && [ "${#uuids[@]}" -gt 1 ]; then
        good 'the kernel keeps it off the disks of the other guests'
    fi
}

# kernel_log / agent_log: what they wrote until now
kernel_log() {
    cat /var/log/audit/audit.log
    journalctl --dmesg --output cat --no-pager
    dmesg
}

agent_log() {
    if [ -n "$agent_log" ]; then
        cat "$agent_log"
    else
        journalctl --unit nova-isolation-agent --output cat --no-pager
    fi
}

# matches LOG TEXT TEXT: its lines that hold both texts
matches() {
    "$1" 2>/dev/null | grep -aF -- "$2" | grep -aF -- "$3"
}

# one_more COUNT LOG TEXT TEXT: waits until there are more than COUNT such
# lines, 10 seconds at most, and prints the last one
one_more() {
    local before=$1
    shift
    for _ in {1..20}; do
        if [ "$(matches "$@" | wc -l)" -gt "$before" ]; then
            matches "$@" | tail -n 1
            return 0
        fi
        sleep 0.5
    done
    return 1
}

attack() {
    local guest=$1 victim=$2 path answer kernel agent found
    printf 'Attack of %s on %s\n' "$guest" "$victim"
    path=$(disks_of "$victim" | head -n 1)
    case $path in
        '' | *[\"\\]*)
            wrong "no disk of $victim to open: '$path'"
            return
            ;;
    esac
    kernel=$(matches kernel_log "libvirt-$guest" "$path" | wc -l)
    agent=$(matches agent_log "$guest" "$victim" | wc -l)
    answer=$(virsh --quiet --connect \
        "$(option isolation libvirt_uri qemu:///system)" \
        qemu-monitor-command "$guest" '{"execute": "blockdev-add",
            "arguments": {"driver": "file", "node-name": "check-host",
            "filename": "'"$path"'"}}' 2>&1)
    if has 'Permission denied' <<<"$answer"; then
        good "QEMU was denied $path"
    else
        wrong "QEMU was not denied $path: $answer"
        virsh --quiet --connect \
            "$(option isolation libvirt_uri qemu:///system)" \
            qemu-monitor-command "$guest" '{"execute": "blockdev-del",
                "arguments": {"node-name": "check-host"}}' >/dev/null 2>&1
    fi
    if found=$(one_more "$kernel" kernel_log "libvirt-$guest" "$path"); then
        good "the kernel recorded it: $found"
    else
        wrong 'the kernel shows no record of it'
    fi
    if found=$(one_more "$agent" agent_log "$guest" "$victim"); then
        good "the agent reported it: $found"
    else
        wrong "the agent's log has nothing of it"
    fi
}

attacker='' victim='' agent_log=''
while [ $# -gt 0 ]; do
    case $1 in
        --config-file)
            configuration+=("${2:?--config-file needs a file}")
            shift 2
            ;;
        --attack)
            attacker=${2:?--attack needs two uuids}
            victim=${3:?--attack needs two uuids}
            shift 3
            ;;
        --agent-log)
            agent_log=${2:?--agent-log needs a file}
            shift 2
            ;;
        *)
            sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
done
if [ "${#configuration[@]}" -eq 0 ]; then
    configuration=(/etc/nova/nova.conf /etc/nova/nova-compute.conf
        /etc/nova/nova.conf.d/*.conf)
fi
if [ "$(id -u)" -ne 0 ]; then
    printf '%s: run it as root\n' "$0" >&2
    exit 2
fi

mode=$(option isolation mode enforce)
parser=$(option isolation apparmor_parser /usr/sbin/apparmor_parser)
directory=$(option isolation profile_directory /etc/apparmor.d/libvirt)
runtime=$(option isolation libvirt_runtime_directory /run/libvirt/qemu)
virsh=(--quiet --readonly --connect
    "$(option isolation libvirt_uri qemu:///system)")

check_kernel
check_parser
check_libvirt
check_nova
check_agent
check_audit

uuids=() names=()
for uuid in $(virsh "${virsh[@]}" list --uuid 2>/dev/null); do
    name=$(virsh "${virsh[@]}" domname "$uuid")
    if virsh "${virsh[@]}" dumpxml "$uuid" | has '<nova:instance'; then
        uuids+=("$uuid")
        names+=("$name")
    else
        printf 'Guest %s (%s)\n  is none of Nova: not looked at\n' \
            "$uuid" "$name"
    fi
done
for i in "${!uuids[@]}"; do
    check_guest "${uuids[i]}" "${names[i]}"
done

[ -z "$attacker" ] || attack "$attacker" "$victim"

printf '\n%d guests, %d faults\n' "${#uuids[@]}" "$bad"
[ "$bad" -eq 0 ]
