#!/bin/busybox sh
# The guest's first process: mounts, announces itself, keeps a shell on the console.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev 2>/dev/null
$bb mount -t tmpfs -o size=64m tmpfs /data
$bb --install -s /bin
export PATH=/bin HOME=/ PS1='guest# '
echo "guest: up after $(cut -d' ' -f1 /proc/uptime) s"
while :; do
    setsid cttyhack sh </dev/ttyS0 >/dev/ttyS0 2>&1
done
