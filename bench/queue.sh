#!/usr/bin/env bash
# Accepting durably into a queue: `smtp serve --queue sqlite` beside Postfix, each loaded by Postfix's `smtp-source`, in
# one run, taking turns. The next hop of both is held back, so that only accepting is measured.
#
#   cargo build --release -p smtp-cli && bench/queue.sh
#
# Prints messages per second and the server's CPU seconds per 1,000 messages; each figure is the median of ROUNDS
# (default 3). Messages of 4 KiB over 1, 20 and 200 sessions that are reused. Both queues are on the disk of WORK
# (default: a new folder below /var/tmp, since /tmp may be in memory). Needs Postfix's package, root (for Postfix), and
# `bc`; runs for about two minutes; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
smtp=${CARGO_TARGET_DIR:-target}/release/smtp
rounds=${ROUNDS:-3}
work=$(mktemp -d "${WORK:-/var/tmp}/smtp-queue-XXXXXX")
chmod 755 "$work"
trap 'kill $ours 2>/dev/null; postfix -c "$work/etc" stop >/dev/null 2>&1; sleep 1; rm -rf "$work"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Ours. What is queued is to be tried at once and then after an hour; nobody listens at the next hop.
ours_port=$(free_port)
"$smtp" serve --listen "smtp://127.0.0.1:$ours_port?tls=none&role=mx" --data-dir "$work/data" --log error \
    --relay-domain perf.test --route 'perf.test=smtp://127.0.0.1:1?tls=none' --queue-retry 1h >"$work/ours" 2>"$work/log" &
ours=$!
for _ in $(seq 100); do grep -q listening "$work/ours" && break; sleep 0.1; done

# Theirs. Deliveries are deferred without a try.
theirs_port=$(free_port)
mkdir -p "$work/etc" "$work/spool" "$work/lib"
chown postfix "$work/lib"
cat >"$work/etc/main.cf" <<CONF
compatibility_level = 3.6
queue_directory = $work/spool
data_directory = $work/lib
myhostname = theirs.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
relay_domains = perf.test
defer_transports = smtp, relay
smtpd_recipient_restrictions = permit_mynetworks, reject
maillog_file = /dev/null
maillog_file_prefixes = /dev
smtpd_client_connection_count_limit = 0
default_process_limit = 250
anvil_status_update_time = 3600s
CONF
sed -E "s/^smtp +inet.*/127.0.0.1:$theirs_port inet n - n - 250 smtpd/; s/^([a-z].*(unix|fifo|pass) +[-yn] +[-yn] +)[-y] /\1n /" \
    /etc/postfix/master.cf >"$work/etc/master.cf"
postfix -c "$work/etc" start >/dev/null 2>&1 || { echo "Postfix does not start" >&2; exit 1; }
for _ in $(seq 50); do (exec 3<>"/dev/tcp/127.0.0.1/$theirs_port") 2>/dev/null && break; sleep 0.2; done
master=$(tr -d ' ' <"$work/spool/pid/master.pid")

# The process and its children, of those that live and of those that have ended.
cpu() {
    local pids
    pids="$1 $(pgrep -P "$1" | tr '\n' ' ')"
    # shellcheck disable=SC2086
    for pid in $pids; do
        awk '{ print ($14 + $15 + $16 + $17) / 100 }' "/proc/$pid/stat" 2>/dev/null || true
    done | awk '{ s += $1 } END { printf "%.3f", s }'
}
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# one PID PORT SESSIONS MESSAGES: "rate cpu"
one() {
    local c0 c1 t0 t1
    c0=$(cpu "$1") t0=$(date +%s.%N)
    smtp-source -s "$3" -m "$4" -l 4096 -d -M gen.test -f a@perf.test -t bench@perf.test 127.0.0.1:"$2"
    t1=$(date +%s.%N) c1=$(cpu "$1")
    echo "$(echo "$4 / ($t1 - $t0)" | bc -l) $(echo "($c1 - $c0) * 1000 / $4" | bc -l)"
}

printf '| sessions | smtp serve, msg/s | Postfix, msg/s | ratio | smtp serve, CPU s/1,000 | Postfix, CPU s/1,000 |\n'
printf '|---|---|---|---|---|---|\n'
for case in "1 ${MESSAGES_1:-1000}" "20 ${MESSAGES_20:-4000}" "200 ${MESSAGES_200:-4000}"; do
    for _ in $(seq "$rounds"); do
        # shellcheck disable=SC2086
        one "$ours" "$ours_port" $case >>"$work/a"
        # shellcheck disable=SC2086
        one "$master" "$theirs_port" $case >>"$work/b"
    done
    a=$(cut -d' ' -f1 "$work/a" | median) b=$(cut -d' ' -f1 "$work/b" | median)
    printf '| %s | %.0f | %.0f | %.1f | %.3f | %.3f |\n' "${case% *}" "$a" "$b" "$(echo "$a / $b" | bc -l)" \
        "$(cut -d' ' -f2 "$work/a" | median)" "$(cut -d' ' -f2 "$work/b" | median)"
    rm -f "$work/a" "$work/b"
done
