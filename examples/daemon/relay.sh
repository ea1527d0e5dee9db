#!/bin/sh
# Runs the relay as a daemon of twistd, with a pid file and a log that rotates:
#
#   relay.sh start|stop|reload|rotate|upgrade
#
# "upgrade" lets a new process take over with all connections, of a new version, say.
#
# The log rotates by itself at 1 MB, and on "rotate", which crontab(5) can call:
#
#   0 0 * * *  /opt/acebase-ipc/relay.sh rotate
#
# Options of the relay follow "start": relay.sh start --token-file token.txt
# Relative paths are resolved in the current directory.
set -eu

TWISTD=${ACEBASE_IPC_TWISTD:-/opt/acebase-ipc/bin/twistd}
DIRECTORY=${ACEBASE_IPC_DIRECTORY:-/var/lib/acebase-ipc}
KEEP=${ACEBASE_IPC_KEEP:-14} # old log files

PIDFILE=$DIRECTORY/relay.pid
LOG=$DIRECTORY/relay.log

command=${1:-}
[ $# -eq 0 ] || shift

case $command in
start)
    umask 077
    # twistd removes a pid file that a crash has left, and refuses to run twice.
    exec "$TWISTD" --rundir="$DIRECTORY" --pidfile="$PIDFILE" --logfile="$LOG" \
        acebase-ipc --log-format text "$@"
    ;;
stop)
    pid=$(cat "$PIDFILE")
    kill -TERM "$pid"
    while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done # 5 s at most
    ;;
reload)
    kill -HUP "$(cat "$PIDFILE")" # reads the token file again
    ;;
upgrade)
    kill -USR2 "$(cat "$PIDFILE")" # the new process writes its own id to the file
    ;;
rotate)
    for old in "$LOG".*; do
        number=${old##*.}
        if [ "$number" -ge "$KEEP" ] 2> /dev/null; then rm -f "$old"; fi
    done
    kill -USR1 "$(cat "$PIDFILE")" # relay.log becomes relay.log.1, that relay.log.2, ...
    ;;
*)
    echo >&2 "usage: $0 start [options of the relay] | stop | reload | rotate | upgrade"
    exit 2
    ;;
esac
