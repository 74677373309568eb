#!/bin/sh
# in-tree.sh ROOT UPPER:WORK|'' CHECKOUT COMMAND…: run COMMAND chrooted into a Debian tree. Called in namespaces of its own
# (contain.py), so that nothing has to be unmounted. With UPPER:WORK the tree stays as it is: an overlay takes what is written.
set -eu
root=$1 overlay=$2 checkout=$3
shift 3
if [ -n "$overlay" ]; then
    mkdir -p "${overlay#*:}"
    merged=${overlay%%:*}.merged
    mkdir -p "$merged"
    mount -t overlay overlay -o "lowerdir=$root,upperdir=${overlay%%:*},workdir=${overlay#*:}" "$merged"
    root=$merged
fi
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
chmod 1777 "$root/tmp"
mount --bind "$checkout" "$root/src"
# how this machine reaches its package registry: names, and certificates that pip is to trust
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    if [ -f "$file" ] && [ -f "$root$file" ]; then mount --bind "$file" "$root$file"; fi
done
exec chroot "$root" "$@"
