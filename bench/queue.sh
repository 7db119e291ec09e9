#!/usr/bin/env bash
# Accepting durably into a queue: `smtp serve --queue sqlite` beside Postfix and Exim, each loaded by Postfix's
# `smtp-source`, in one run, taking turns. The next hop of all is held back, so that only accepting is measured.
#
#   cargo build --release -p smtp-cli && sudo bench/queue.sh
#
# Prints messages per second and the server's CPU seconds per 1,000 messages; each figure is the median of ROUNDS
# (default 3). Messages of 4 KiB over 1, 20 and 200 sessions that are reused. All queues are on the disk of WORK
# (default: a new folder below /var/tmp, since /tmp may be in memory). Exim is left out where `.ci/setup` has not
# unpacked it. Runs for about three minutes; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/lib.sh
work=$(mktemp -d "${WORK:-/var/tmp}/smtp-queue-XXXXXX")
chmod 755 "$work"
ours='' exim=''
trap 'kill $ours $exim 2>/dev/null; postfix_end "$work/postfix"; sleep 1; rm -rf "$work"' EXIT

# What is queued is to be tried at once and then after an hour; nobody listens at the next hop.
ours_port=$(free_port)
"$smtp" serve --listen "smtp://127.0.0.1:$ours_port?tls=none&role=mx" --data-dir "$work/data" --log error \
    --relay-domain perf.test --route 'perf.test=smtp://127.0.0.1:1?tls=none' --queue-retry 1h >"$work/ours" 2>"$work/log" &
ours=$!
wait_for_port "$ours_port"

postfix_port=$(free_port)
postfix_at "$work/postfix" "$postfix_port" 'defer_transports = smtp, relay'
postfix=$(cat "$work/postfix/master.pid")

if [ -x "$peers/exim/usr/sbin/exim4" ]; then
    exim_port=$(free_port)
    exim_at "$work/exim" "$exim_port"
    exim=$!
fi

# one PID PORT SESSIONS MESSAGES: "rate cpu"
one() {
    local c0 c1 t0 t1
    c0=$(cpu "$1") t0=$(date +%s.%N)
    smtp-source -s "$3" -m "$4" -l 4096 -d -M gen.test -f a@perf.test -t bench@perf.test 127.0.0.1:"$2"
    t1=$(date +%s.%N) c1=$(cpu "$1")
    echo "$(echo "$4 / ($t1 - $t0)" | bc -l) $(echo "($c1 - $c0) * 1000 / $4" | bc -l)"
}

printf '| sessions | smtp serve, msg/s | Postfix | Exim | ratio to the better | smtp serve, CPU s/1,000 | Postfix | Exim |\n'
printf '|---|---|---|---|---|---|---|---|\n'
for case in "1 ${MESSAGES_1:-1000}" "20 ${MESSAGES_20:-4000}" "200 ${MESSAGES_200:-4000}"; do
    set -- $case
    echo "0 0" >"$work/exim.out"
    for _ in $(seq "$rounds"); do
        one "$ours" "$ours_port" "$@" >>"$work/ours.out"
        one "$postfix" "$postfix_port" "$@" >>"$work/postfix.out"
        [ -z "$exim" ] || one "$exim" "$exim_port" "$@" >>"$work/exim.out"
    done
    [ -z "$exim" ] || sed -i 1d "$work/exim.out"
    a=$(column 1 "$work/ours.out") b=$(column 1 "$work/postfix.out") c=$(column 1 "$work/exim.out")
    better=$(printf '%s\n' "$b" "$c" | sort -n | tail -1)
    printf '| %s | %.0f | %.0f | %.0f | %.1f | %.3f | %.3f | %.3f |\n' "$1" "$a" "$b" "$c" "$(echo "$a / $better" | bc -l)" \
        "$(column 2 "$work/ours.out")" "$(column 2 "$work/postfix.out")" "$(column 2 "$work/exim.out")"
    rm -f "$work"/*.out
done
