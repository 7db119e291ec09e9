#!/usr/bin/env bash
# A relay from end to end: in over 20 sessions from `smtp-source`, into the durable queue, out to Postfix's `smtp-sink`:
# `smtp serve --queue sqlite` beside Postfix, in one run, taking turns.
#
#   cargo build --release -p smtp-cli && sudo bench/relay.sh
#
# Prints messages per second from the first connection in until the last message is out, and the server's CPU seconds
# per 1,000 messages, medians of ROUNDS (default 3); messages of 4 KiB, MESSAGES (default 4,000) in each round. Both may
# send 20 at once to the next hop. Queues are on the disk of WORK (default: a new folder below /var/tmp). Needs Postfix's
# package, root, and `bc`; runs for about a minute; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/lib.sh
messages=${MESSAGES:-4000}
work=$(mktemp -d "${WORK:-/var/tmp}/smtp-relay-XXXXXX")
chmod 755 "$work"
ours='' sinks=()
trap 'kill $ours "${sinks[@]}" 2>/dev/null; postfix_end "$work/postfix"; sleep 1; rm -rf "$work"' EXIT

# sink_at PORT NAME: counts what comes in NAME.count.
sink_at() {
    # shellcheck disable=SC2086
    smtp-sink -c $sink_user 127.0.0.1:"$1" 1000 >"$work/$2.count" &
    sinks+=($!)
    wait_for_port "$1"
}
count() { tr '\r' '\n' <"$work/$1.count" | sed -n 's/.*mesg=\([0-9]*\).*/\1/p' | tail -1; }

ours_next=$(free_port)
sink_at "$ours_next" ours
postfix_next=$(free_port)
sink_at "$postfix_next" postfix

ours_port=$(free_port)
"$smtp" serve --listen "smtp://127.0.0.1:$ours_port?tls=none&role=mx" --data-dir "$work/data" --log error \
    --relay-domain perf.test --route "perf.test=smtp://127.0.0.1:$ours_next?tls=none" >"$work/ours" 2>"$work/log" &
ours=$!
wait_for_port "$ours_port"
postfix_port=$(free_port)
postfix_at "$work/postfix" "$postfix_port" "relay_transport = relay:[127.0.0.1]:$postfix_next
relay_destination_concurrency_limit = 20"
postfix=$(cat "$work/postfix/master.pid")

# one PID PORT NAME: "rate cpu"
one() {
    local c0 c1 t0 t1 before
    before=$(count "$3") before=${before:-0}
    c0=$(cpu "$1") t0=$(date +%s.%N)
    smtp-source -s 20 -m "$messages" -l 4096 -d -M gen.test -f a@perf.test -t bench@perf.test 127.0.0.1:"$2"
    for _ in $(seq 6000); do
        [ "$(count "$3")" -ge $((before + messages)) ] && break
        sleep 0.02
    done
    t1=$(date +%s.%N) c1=$(cpu "$1")
    [ "$(count "$3")" -ge $((before + messages)) ] || { echo "$3 has not relayed all" >&2; return 1; }
    echo "$(echo "$messages / ($t1 - $t0)" | bc -l) $(echo "($c1 - $c0) * 1000 / $messages" | bc -l)"
}

for _ in $(seq "$rounds"); do
    one "$ours" "$ours_port" ours >>"$work/ours.out"
    one "$postfix" "$postfix_port" postfix >>"$work/postfix.out"
done
a=$(column 1 "$work/ours.out") b=$(column 1 "$work/postfix.out")
printf '| relay | msg/s | CPU s/1,000 |\n|---|---|---|\n'
printf '| smtp serve | %.0f | %.3f |\n| Postfix | %.0f | %.3f |\n| ratio | %.1f | %.2f |\n' \
    "$a" "$(column 2 "$work/ours.out")" "$b" "$(column 2 "$work/postfix.out")" "$(echo "$a / $b" | bc -l)" \
    "$(echo "$(column 2 "$work/ours.out") / $(column 2 "$work/postfix.out")" | bc -l)"
