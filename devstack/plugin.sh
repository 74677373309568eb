#!/bin/bash
#
# Installs nova-isolation on the compute nodes of a devstack:
#
#   [[local|localrc]]
#   enable_plugin nova-isolation <URL of the repository> main
#
# devstack sources this file in each of its phases.

NOVA_ISOLATION_DIR=$DEST/nova-isolation
NOVA_ISOLATION_STATE=/var/lib/nova-isolation
NOVA_ISOLATION_DROPIN=$SYSTEMD_DIR/devstack@nova-isolation-agent.service.d
NOVA_ISOLATION_CANARY=/etc/apparmor.d/nova-isolation-canary

function is_isolation_wanted {
    is_service_enabled n-cpu && [[ "$VIRT_DRIVER" == libvirt ]]
}

function install_nova_isolation {
    install_package apparmor
    setup_develop "$NOVA_ISOLATION_DIR"
}

function configure_nova_isolation {
    # nova-cpu.conf does not exist yet: it is copied from nova.conf when
    # nova-compute is started.
    iniset "$NOVA_CONF" DEFAULT compute_driver isolation.LibvirtDriver
    iniset "$NOVA_CONF" isolation mode "$NOVA_ISOLATION_MODE"

    # The privileged daemon is started through nova-rootwrap, as Nova's own,
    # with root's configuration: the filter names it.
    iniset "$NOVA_CONF" nova_isolation_privileged helper_command \
        "sudo nova-rootwrap $NOVA_CONF_DIR/rootwrap.conf privsep-helper --config-file $NOVA_CONF"
    sudo install -m 0644 \
        "$NOVA_ISOLATION_DIR/etc/nova-isolation/rootwrap.d/nova-isolation.filters" \
        "$NOVA_CONF_DIR/rootwrap.d/"
    # The agent's journal and nova-compute's spool; both services run as the
    # stack user here.
    sudo install -d -o "$STACK_USER" -m 0750 "$NOVA_ISOLATION_STATE"

    # The profile under which the agent tests whether denials are heard.
    sudo install -m 0644 "$NOVA_ISOLATION_DIR/etc/apparmor.d/nova-isolation-canary" \
        "$NOVA_ISOLATION_CANARY"
    sudo apparmor_parser -r "$NOVA_ISOLATION_CANARY"

    # Named, so that libvirtd refuses to run without its driver instead of
    # starting guests unconfined.
    local conf=/etc/libvirt/qemu.conf
    sudo sed -i '/^ *security_driver *=/d' "$conf"
    echo 'security_driver = "apparmor"' | sudo tee -a "$conf" >/dev/null
    restart_service libvirtd
}

function start_nova_isolation {
    # What the agent needs beyond its user: the kernel's audit records, and the
    # past ones in the kernel's log and in the journal. run_process has no word
    # for that, so a drop-in of its unit says it.
    local capabilities='CAP_AUDIT_READ CAP_SYSLOG'
    sudo mkdir -p "$NOVA_ISOLATION_DROPIN"
    printf '%s\n' '[Service]' "AmbientCapabilities=$capabilities" \
        "CapabilityBoundingSet=$capabilities" \
        SupplementaryGroups=systemd-journal \
        | sudo tee "$NOVA_ISOLATION_DROPIN/capabilities.conf" >/dev/null
    run_process nova-isolation-agent \
        "$(get_python_exec_prefix)/nova-isolation-agent --config-file $NOVA_CPU_CONF"
}

function cleanup_nova_isolation {
    if [[ -f "$NOVA_ISOLATION_CANARY" ]]; then
        sudo apparmor_parser -R "$NOVA_ISOLATION_CANARY" || true
        sudo rm "$NOVA_ISOLATION_CANARY"
    fi
    sudo rm -rf "$NOVA_ISOLATION_STATE" "$NOVA_ISOLATION_DROPIN" \
        "$NOVA_CONF_DIR/rootwrap.d/nova-isolation.filters"
}

if is_isolation_wanted; then
    case "$1 $2" in
        'stack install') install_nova_isolation ;;
        'stack post-config') configure_nova_isolation ;;
        'stack extra') start_nova_isolation ;;
        'unstack '*) stop_process nova-isolation-agent ;;
        'clean '*) cleanup_nova_isolation ;;
    esac
fi
