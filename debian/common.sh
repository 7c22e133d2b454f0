# Part of each maintainer script: debian/rules puts it in the place of the line #COMMON#.

# captchad.service first, for the drain wants it to be there.
units="captchad.service captchad-dlq-drain.timer captchad-dlq-drain.service"
active=/run/captchad.active # what postinst starts, a unit a line
machines_unit=/etc/systemd/system/captchad.service
left=/var/lib/misc/captchad.left # what prerm has found for a purge, a line for each thing
state=/var/lib/captchad
spool=/var/spool/captchad

# The state directories in what a purge removes, each with $1 behind it. Whatever the configuration names today, a daemon
# may have run there.
state_dirs() {
    find -H $state $spool -name journal ! -type f -printf "%h$1" 2>/dev/null || :
}

# Whether captchad.service is another captchad's: a file of the machine's own, no mask, that names a captchad which is
# there and is not the package's. Then its units hide those of the package, and are left alone.
foreign_unit() {
    program=$(named_program)
    [ -e "$program" ] && ! [ "$program" -ef /usr/bin/captchad ]
}

# The captchad in the command of the machine's own unit, also behind a wrapper like nice: a path of that name, best of a
# program that is there. A name alone may be a user's, and a directory is none. Without one: the command's first word.
named_program() {
    [ -f $machines_unit ] || return 0
    sed -nE ':a; /\\$/ { N; s/\\\n/ /; ba }; s/^\s*ExecStart\s*=\s*[-@:+!|]*//p' $machines_unit | tail -n 1 |
        grep -oE '"[^"]*"|\S+' | sed -E 's/^"(.*)"$/\1/; s/%%/%/g' | {
        first='' gone=''
        while read -r word; do
            first=${first:-$word}
            case $word in
            /*/captchad)
                if [ -f "$word" ] && [ -x "$word" ]; then
                    echo "$word"
                    exit
                fi
                [ -e "$word" ] || gone=${gone:-$word}
                ;;
            esac
        done
        found=${gone:-$first}
        command -v "$found" || echo "$found" | grep ^/ || :
    }
}

# Modules are imported, and processes are made, long after the start: old code must not meet new files. So all is stopped
# before files are replaced. The captchas go on at the provider meanwhile.
#
# What runs goes on the list before, also units that a stop of captchad takes along. The list only grows until postinst
# has started what is on it: dpkg may be killed here, and begin again. It never has the drain's service, which costs money.
stop_units() {
    [ -d /run/systemd/system ] || return 0
    ! foreign_unit || return 0
    {
        cat $active 2>/dev/null || :
        for unit in captchad.service captchad-dlq-drain.timer $(property captchad RequiredBy,BoundBy,ConsistsOf); do
            [ "$unit" = captchad-dlq-drain.service ] || ! runs "$unit" || echo "$unit"
        done
    } | awk '!seen[$0]++' >$active.new
    mv $active.new $active
    for unit in $units; do
        ! stoppable "$unit" || systemctl stop "$unit"
    done
}

# systemd refuses to stop what it could not load and what does not run: a bad drop-in must not hold up its own mending.
stoppable() {
    case $(property "$1" LoadState) in
    not-found | bad-setting | error) [ "$(property "$1" ActiveState)" != inactive ] ;;
    esac
}

# A restart in flight counts, and so does one that waits for the last workers of a crash; not what somebody stops.
runs() {
    case $(systemctl list-jobs --full --plain --no-legend "$1" | awk '{ print $3 }') in
    *start) return 0 ;;
    stop) return 1 ;;
    esac
    case $(property "$1" ActiveState) in
    inactive | failed | '') return 1 ;; # the last in a chroot with the /run of its host
    esac
}

property() {
    systemctl show --property "$2" --value "$1"
}
