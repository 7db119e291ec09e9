#!/usr/bin/env bash
# Accepting durably into a queue: `smtp serve --queue sqlite` beside Postfix, Exim and OpenSMTPD, each loaded by Postfix's
# `smtp-source`, in one run, taking turns. The next hop of all is held back, so that only accepting is measured. With
# GENERATOR=bench it is `smtp bench` that loads them: it pipelines, and uses BDAT where that is offered, as a mail server may.
#
#   cargo build --release -p smtp-cli && sudo bench/queue.sh
#
# Prints messages per second, the server's CPU seconds per 1,000 messages, and the ratio of these to those of `smtp serve`;
# each figure is the median of ROUNDS (default 3). Messages of 4 KiB over 1, 20 and 200 sessions that are reused. All
# queues are on the disk of WORK (default: a new folder below /var/tmp, since /tmp may be in memory). Exim is left out
# where `.ci/setup` has not unpacked it; OpenSMTPD is unpacked here. OpenSMTPD syncs nothing before its 250, the others do.
# Runs for about three minutes; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/lib.sh
work=$(mktemp -d "${WORK:-/var/tmp}/smtp-queue-XXXXXX")
chmod 755 "$work"
names=() pids=() ports=()
trap 'kill "${pids[@]}" 2>/dev/null; postfix_end "$work/postfix"; sleep 1; rm -rf "$work"' EXIT

add() { names+=("$1") pids+=("$2") ports+=("$port"); }

# What is queued is to be tried at once and then after an hour; nobody listens at the next hop.
port=$(free_port)
"$smtp" serve --listen "smtp://127.0.0.1:$port?tls=none&role=mx" --data-dir "$work/data" --log error \
    --relay-domain perf.test --route 'perf.test=smtp://127.0.0.1:1?tls=none' --queue-retry 1h >"$work/ours" 2>"$work/log" &
add "smtp serve" $!
wait_for_port "$port"

port=$(free_port)
postfix_at "$work/postfix" "$port" 'defer_transports = smtp, relay'
add Postfix "$(cat "$work/postfix/master.pid")"

if [ -x "$peers/exim/usr/sbin/exim4" ]; then
    port=$(free_port)
    exim_at "$work/exim" "$port"
    add Exim $!
else
    without Exim ".ci/setup has not unpacked it"
fi

if [ "${GENERATOR:-smtp-source}" = bench ]; then
    without OpenSMTPD "it does not take all that \`smtp bench\` sends over 20 sessions"
elif from_debian opensmtpd opensmtpd; then
    port=$(free_port)
    opensmtpd_at "$work/opensmtpd" "$port" || cat "$work/opensmtpd/log" >&2
    add OpenSMTPD $!
fi

# one N SESSIONS MESSAGES: loads a server, and appends "rate cpu" to its file.
one() {
    local c0 c1 t0 t1
    c0=$(cpu "${pids[$1]}") t0=$(date +%s.%N)
    if [ "${GENERATOR:-smtp-source}" = bench ]; then
        timeout 120 "$smtp" bench "smtp://127.0.0.1:${ports[$1]}?tls=none" --sessions "$2" --messages "$3" --size 4K \
            --from a@perf.test --to bench@perf.test --no-tui >/dev/null
    else
        timeout 120 smtp-source -s "$2" -m "$3" -l 4096 -d -M gen.test -f a@perf.test -t bench@perf.test \
            127.0.0.1:"${ports[$1]}"
    fi
    t1=$(date +%s.%N) c1=$(cpu "${pids[$1]}")
    echo "$(echo "$3 / ($t1 - $t0)" | bc -l) $(echo "($c1 - $c0) * 1000 / $3" | bc -l)" >>"$work/$1.out"
}

printf '| sessions | server | msg/s | CPU s/1,000 | CPU ratio to smtp serve |\n|---|---|---|---|---|\n'
for case in "1 ${MESSAGES_1:-500}" "20 ${MESSAGES_20:-2000}" "200 ${MESSAGES_200:-2000}"; do
    for _ in $(seq "$rounds"); do
        # shellcheck disable=SC2086
        for n in "${!names[@]}"; do one "$n" $case; done
    done
    for n in "${!names[@]}"; do
        printf '| %s | %s | %.0f | %.3f | %.1f |\n' "${case% *}" "${names[n]}" "$(column 1 "$work/$n.out")" \
            "$(column 2 "$work/$n.out")" "$(echo "$(column 2 "$work/$n.out") / $(column 2 "$work/0.out")" | bc -l)"
    done
    rm "$work"/*.out
done
