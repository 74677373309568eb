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
    # Both services run as the stack user here.
    sudo install -d -o "$STACK_USER" -m 0750 "$NOVA_ISOLATION_STATE"

    # Named, so that libvirtd refuses to run without its driver instead of
    # starting guests unconfined.
    local conf=/etc/libvirt/qemu.conf
    sudo sed -i '/^ *security_driver *=/d' "$conf"
    echo 'security_driver = "apparmor"' | sudo tee -a "$conf" >/dev/null
    restart_service libvirtd
}

function start_nova_isolation {
    # One capability is all that the agent needs beyond its user; run_process
    # has no word for that, so a drop-in of its unit says it.
    sudo mkdir -p "$NOVA_ISOLATION_DROPIN"
    printf '[Service]\n%s\n%s\n' AmbientCapabilities=CAP_AUDIT_READ \
        CapabilityBoundingSet=CAP_AUDIT_READ \
        | sudo tee "$NOVA_ISOLATION_DROPIN/capabilities.conf" >/dev/null
    run_process nova-isolation-agent \
        "$(get_python_exec_prefix)/nova-isolation-agent --config-file $NOVA_CPU_CONF"
}

function cleanup_nova_isolation {
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
