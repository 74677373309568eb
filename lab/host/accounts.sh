#!/bin/sh
# Runs in the tree. Nova runs as on a real compute node: a user of its own that
# may talk to libvirt and start privsep's helper as root.
set -eux
home=/var/lib/nova
useradd --system --user-group --groups libvirt \
    --home-dir $home --shell /usr/sbin/nologin nova
install -d -o nova -g nova -m 755 $home $home/instances $home/lock
install -d -o nova -g nova -m 750 /var/lib/nova-isolation
install -m 440 /src/lab/etc/sudoers /etc/sudoers.d/lab-nova
dbus-uuidgen > /etc/machine-id
