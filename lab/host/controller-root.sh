#!/bin/sh
# controller-root.sh LOWER OVERLAY CHECKOUT LOG: mount the controller's root
# at OVERLAY/root, copy-on-write. Called in a run's namespaces, so that nothing
# has to be unmounted. LOWER is what overlayfs takes: layers joined by colons.
set -eu
lower=$1 overlay=$2 checkout=$3 log=$4
root=$overlay/root
mkdir -p "$overlay/upper" "$overlay/work" "$root"
mount -t overlay overlay \
    -o "lowerdir=$lower,upperdir=$overlay/upper,workdir=$overlay/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$checkout" "$root/src"
mount -o remount,ro,bind "$root/src"
mkdir "$root/run/log"
mount --bind "$log" "$root/run/log"
