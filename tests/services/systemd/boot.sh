#!/bin/sh
# Become systemd as the first process of a machine of its own: the host's files with a layer of their
# own on top, kept in $1. Run by machine.py in fresh pid, mount, network, UTS, IPC and cgroup namespaces.
set -e
layer=$1
root=$layer/root
mkdir -p "$root"
mount -t tmpfs tmpfs "$layer"
mkdir -p "$root" "$layer/upper" "$layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mount -t sysfs sysfs "$root/sys"
# Nothing of the host's is wanted, and nothing of it shall be started.
rm -rf "$root/etc/systemd/system" "$root/etc/fstab"
mkdir -p "$root/etc/systemd/system" "$root/old"
printf '[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nWants=dbus.socket\n' \
    > "$root/etc/systemd/system/machine.target"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
cd "$root"
pivot_root . old
umount -l /old
export container=kmem-harness
exec /lib/systemd/systemd --system --log-target=null --show-status=no systemd.unit=machine.target < /dev/null
