#!/usr/bin/env bash
# Boot this machine's systemd as PID 1 of throw-away namespaces, run a command in there, shut down.
#
#     run-systemd.sh [--host-net] [--bind DIR]... COMMAND [ARGUMENT...]
#
# Exit status: the command's; 69 when such a boot is not possible here. The command sees the root file system through an
# overlay, so what it writes is gone afterwards, except below each --bind DIR (which must not lie in /dev, /proc, /run or
# /sys). It has processes, mounts, cgroups, a loopback network and a journal of its own; no unit that is enabled on the
# machine runs. With --host-net the network is the machine's. Root in there is root: this is a test bed, not a wall.
#
# A unit that does not stop holds up the end: wrap the script in timeout(1).
set -euo pipefail
export PATH="${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin"

unable() {
    echo "run-systemd.sh: $*" >&2
    exit 69
}

# --- outside: make a cgroup, start the boot, pass its status on -------------------------------------------------------

outside() {
    local binds=() spaces=(--mount --pid --fork --uts --ipc) net=--net hierarchy cgroup boot status=0
    while :; do
        case ${1-} in
        --bind) binds+=("$(readlink -e "$2")"); shift 2 ;;
        --host-net) net=; shift ;;
        *) break ;;
        esac
    done
    [ $# -gt 0 ] || { echo "usage: run-systemd.sh [--host-net] [--bind DIR]... COMMAND [ARGUMENT...]" >&2; exit 64; }
    spaces+=(${net:+"$net"})

    [ "$(id -u)" = 0 ] || unable "needs root"
    [ -x /lib/systemd/systemd ] || unable "needs Debian's package systemd"
    hierarchy=$(findmnt --noheadings --first-only --output TARGET --types cgroup2) || unable "no cgroup2 is mounted"
    cgroup=$hierarchy/captchad-test.$$
    mkdir "$cgroup" || unable "cannot make a cgroup"
    unshare "${spaces[@]}" true || { rmdir "$cgroup"; unable "cannot make namespaces"; }

    # Background jobs read /dev/null unless told otherwise; a closed stdin must not become somebody's socket.
    { : <&0; } 2>/dev/null || exec </dev/null
    # The boot dies with this script: setpriv ties unshare to it, and --kill-child the new PID 1 to unshare.
    # The capabilities that are taken away are those by which a boot would change the machine itself.
    setpriv --pdeathsig KILL --bounding-set -sys_module,-sys_rawio,-sys_time,-syslog,-audit_control,-audit_read \
        unshare "${spaces[@]}" --kill-child \
        bash "$0" --enter "$cgroup" "${#binds[@]}" "${binds[@]}" "$@" <&0 &
    boot=$!
    trap 'kill -KILL $boot; wait $boot 2>/dev/null || :' HUP INT TERM
    wait $boot || status=$?
    remove "$cgroup"
    exit $status
}

remove() { # the kernel lets a cgroup go only when the last process in it has been reaped
    local tries
    for tries in {1..100}; do
        find "$1" -depth -type d -exec rmdir {} + 2>/dev/null && return
        sleep 0.05
    done
    echo "run-systemd.sh: left behind after $tries tries: $1" >&2
}

# --- enter: the first process of the new PID namespace ----------------------------------------------------------------

# unshare itself has to stay out of the cgroup, or the new tree's root would hold a process without a number.
enter() {
    local cgroup=$1
    shift
    echo 0 >"$cgroup/cgroup.procs"
    exec unshare --cgroup bash "$0" --stage "$@"
}

# --- stage: build the root file system, then become systemd -----------------------------------------------------------

stage() {
    local count=$1 directory=$PWD
    shift
    mount -t tmpfs tmpfs /run
    mkdir /run/changes /run/work /run/root
    mount -t overlay -o lowerdir=/,upperdir=/run/changes,workdir=/run/work overlay /run/root || unable "cannot overlay /"
    cd /run/root
    while [ "$count" -gt 0 ]; do
        mkdir -p ".$1"
        mount --bind "$1" ".$1"
        shift
        count=$((count - 1))
    done
    kernel_trees
    devices
    private_settings

    mount -t tmpfs -o mode=755 tmpfs run
    mkdir run/outside
    pivot_root . run/outside
    umount --lazy /run/outside
    rmdir /run/outside
    # systemd does this itself only outside of containers; without it LoadCredential= leaves an empty directory.
    mount --make-rshared /

    guest "$directory" "$@" <&0 &
    exec env --ignore-environment container=other /lib/systemd/systemd --unit=basic.target
}

kernel_trees() {
    mount -t proc proc proc
    # The machine's own settings and devices: read-only, which also makes systemd leave them alone.
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    # cgroup2 right here: with cgroup v1 in sight systemd would write into the machine's hierarchies.
    mount -t cgroup2 cgroup2 sys/fs/cgroup
}

devices() { # a tmpfs, since systemd would mount the devtmpfs that all share
    local name number
    mount -t tmpfs -o mode=755 tmpfs dev
    while read -r name number; do
        # shellcheck disable=SC2086  # two words
        mknod --mode=666 "dev/$name" c $number
    done <<'NODES'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
    ln -s pts/ptmx dev/ptmx
}

private_settings() {
    rm -f usr/sbin/policy-rc.d # a container's, by which no package starts anything
    mount -t tmpfs -o mode=755 tmpfs etc/systemd/system # nothing that is enabled on the machine
    mkdir -p etc/tmpfiles.d
    ln -sf /dev/null etc/tmpfiles.d/tmp.conf # or the boot would empty /tmp
    tr -d - <proc/sys/kernel/random/uuid >etc/machine-id
}

# --- guest: the command, once systemd is up ---------------------------------------------------------------------------

guest() {
    local directory=$1 status=0
    shift
    until [ -S /run/systemd/private ]; do sleep 0.02; done
    # "degraded" is no reason not to run; say what failed.
    systemctl is-system-running --wait >/dev/null || systemctl --no-pager --failed >&2
    cd "$directory" 2>/dev/null || cd /
    # A background job ignores the keyboard's signals, and its children would inherit that.
    env --default-signal=INT,QUIT -- "$@" || status=$?
    systemctl exit "$status"
}

case ${1-} in
--enter) shift; enter "$@" ;;
--stage) shift; stage "$@" ;;
*) outside "$@" ;;
esac
