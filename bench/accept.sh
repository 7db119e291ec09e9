#!/usr/bin/env bash
# Accepting and discarding: our `smtp sink` beside Postfix's `smtp-sink`, each loaded by Postfix's `smtp-source`, in one
# run, taking turns.
#
#   cargo build --release && bench/accept.sh
#
# Prints messages per second and the server's CPU seconds per 1,000 messages; each figure is the median of ROUNDS
# (default 3). Server on CPU 0, generator on CPU 1. Needs Postfix's package (smtp-source, smtp-sink) and `bc`; runs for
# about two minutes; nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
smtp=${CARGO_TARGET_DIR:-target}/release/smtp
rounds=${ROUNDS:-3}
work=$(mktemp -d)
trap 'kill $ours $theirs 2>/dev/null; rm -rf "$work"' EXIT

taskset -c 0 "$smtp" sink --listen smtp://127.0.0.1:0 >"$work/ours" 2>"$work/log" &
ours=$!
# As root, smtp-sink wants to be told as whom to run.
user=$(if [ "$(id -u)" = 0 ]; then echo "-u nobody"; fi)
theirs_port=12526
# shellcheck disable=SC2086
taskset -c 0 smtp-sink $user 127.0.0.1:$theirs_port 1000 &
theirs=$!
for _ in $(seq 100); do grep -q listening "$work/ours" && break; sleep 0.1; done
ours_port=$(sed -n 's/^listening .*:\([0-9]*\).*/\1/p' "$work/ours")

cpu() { cat /proc/"$1"/task/*/schedstat | awk '{ s += $1 } END { printf "%.6f", s / 1e9 }'; }
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# one PID PORT SESSIONS MESSAGES SIZE [-d]: "rate cpu"
one() {
    local pid=$1 port=$2 sessions=$3 messages=$4 size=$5 reuse=${6-} c0 c1 t0 t1
    c0=$(cpu "$pid") t0=$(date +%s.%N)
    # shellcheck disable=SC2086
    taskset -c 1 smtp-source -s "$sessions" -m "$messages" -l "$size" $reuse -M gen.test -f a@perf.test \
        -t bench@perf.test 127.0.0.1:"$port"
    t1=$(date +%s.%N) c1=$(cpu "$pid")
    echo "$(echo "$messages / ($t1 - $t0)" | bc -l) $(echo "($c1 - $c0) * 1000 / $messages" | bc -l)"
}

printf '| case | smtp sink, msg/s | smtp-sink, msg/s | smtp sink, CPU s/1,000 | smtp-sink, CPU s/1,000 | CPU ratio |\n'
printf '|---|---|---|---|---|---|\n'
for case in "1 3000 4096 -d" "20 20000 4096 -d" "200 10000 4096 -d" "20 5000 4096" \
    "1 1000 102400 -d" "20 4000 102400 -d" "200 4000 102400 -d" \
    "1 200 1048576 -d" "20 800 1048576 -d" "200 800 1048576 -d"; do
    # shellcheck disable=SC2086
    for _ in $(seq "$rounds"); do
        one $ours "$ours_port" $case >>"$work/a"
        one $theirs $theirs_port $case >>"$work/b"
    done
    # shellcheck disable=SC2086
    set -- $case
    a_rate=$(cut -d' ' -f1 "$work/a" | median) a_cpu=$(cut -d' ' -f2 "$work/a" | median)
    b_rate=$(cut -d' ' -f1 "$work/b" | median) b_cpu=$(cut -d' ' -f2 "$work/b" | median)
    how=$([ "${4-}" = -d ] && echo reused || echo "a connection each")
    printf '| %s KiB, %s sessions, %s | %.0f | %.0f | %.3f | %.3f | %.2f |\n' $(($3 / 1024)) "$1" "$how" \
        "$a_rate" "$b_rate" "$a_cpu" "$b_cpu" "$(echo "$a_cpu / $b_cpu" | bc -l)"
    rm -f "$work/a" "$work/b"
done
