#!/bin/sh
# make-disk.sh TREE MODULES LAB WORK DISK: the compute node's file system, made
# of the tree and what only the compute node needs. TREE stays as it is: an
# overlay takes the additions. Called in namespaces of its own (contain.py).
set -eux
tree=$1 modules=$2 lab=$3 work=$4 disk=$5
emulator=usr/bin/qemu-system-x86_64
library=usr/lib/x86_64-linux-gnu/libumlfast.so
mkdir -p "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay \
    -o "metacopy=on,lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" \
    "$work/root"
cd "$work/root"
mkdir -p usr/lib/lab usr/lib/modules
cp -r "$modules/." usr/lib/modules
cp "$lab/guest/init-stub" usr/lib/lab/init
gcc -O2 -Wall -Werror -shared -fPIC -o "$library" "$lab/guest/umlfast.c"
cat "$lab/etc/libvirtd.conf" >> etc/libvirt/libvirtd.conf
cat "$lab/etc/qemu.conf" >> etc/libvirt/qemu.conf
# QEMU needs the library by itself: no /etc/ld.so.preload, which would be one
# more file that a guest's profile must allow, and no LD_PRELOAD, which the
# loader drops when an execution changes the profile.
cp --preserve=mode "$emulator" usr/lib/lab/
patchelf --add-needed libumlfast.so --output "$work/emulator" "$emulator"
mv "$work/emulator" "$emulator"
# SELinux' policy and labels; a kernel without it does not look at them
if [ -d etc/selinux/default ]; then
    sed -i 's/^SELINUX=.*/SELINUX=enforcing/' etc/selinux/config
    cp "$lab/etc/selinux-labels" \
        etc/selinux/default/contexts/files/file_contexts.local
    cp "$lab/etc/selinux.cil" tmp/lab.cil
    # without, nothing is labelled, and nobody says so
    mount -t proc proc proc
    chroot . semodule -i /tmp/lab.cil
    chroot . setfiles -F -e /dev -e /opt -e /proc -e /sys \
        /etc/selinux/default/contexts/files/file_contexts /
    umount proc
    rm tmp/lab.cil
fi
mke2fs -q -t ext4 -O ^has_journal -m 0 -d . "$disk" 5G
