#!/usr/bin/env bash
# Fuzzes each target for a bounded time.
#
#   fuzz/run.sh [SECONDS_TOTAL]       default 60, shared out evenly
#
# SANITIZER=none fuzzes without AddressSanitizer, which is several times as fast. TARGETS="values write_model" fuzzes only those.
# JOBS=2 runs so many targets at a time. SEED=1 draws the same each time, as far as it comes; otherwise chance does. Exit status: 0 if nothing was found, 1 if something was or a target does not build. Where nightly
# or cargo-fuzz is missing it says so and ends with 0; with REQUIRE=1 it ends with 2 then.
set -u
cd "$(dirname "$0")"
total=${1:-60}
sanitizer=${SANITIZER:-address}
jobs=${JOBS:-1}
# Shared with campaign.sh: targets, folders of inputs, options.
# shellcheck source=targets.sh
. ./targets.sh

skip() {
    echo "SKIPPED: NO FUZZING WAS DONE: $1" >&2
    echo "         to have it: rustup toolchain install nightly && cargo install cargo-fuzz --locked" >&2
    [ "${REQUIRE:-0}" = 1 ] && exit 2
    exit 0
}
cargo +nightly --version > /dev/null 2>&1 || skip "there is no nightly toolchain"
cargo +nightly fuzz --version > /dev/null 2>&1 || skip "cargo-fuzz is not installed"

case $total in '' | *[!0-9]*) echo "usage: $0 [SECONDS_TOTAL]" >&2; exit 1 ;; esac
each=$((total * jobs / ${#targets[@]}))
[ "$each" -ge 1 ] || each=1

fuzz() {
    local target=$1 log="artifacts/$1.log" folders options
    mkdir -p "artifacts/$target" "corpus/$target"
    read -r -a folders <<< "$(folders_of "$target")"
    read -r -a options <<< "$(options_of "$target")"
    options+=(-max_total_time="$each" -seed="${SEED:-0}")
    if cargo +nightly fuzz run -s "$sanitizer" "$target" "${folders[@]}" -- "${options[@]}" > "$log" 2>&1; then
        local done executions
        done=$(grep -a 'DONE   cov:' "$log" | tail -n 1)
        executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "$target: $executions executions in ${each} s, $(grep -ao 'cov: [0-9]* ft: [0-9]*' <<< "$done"), nothing found"
    else
        echo "$target: FOUND SOMETHING, OR DID NOT RUN; the end of fuzz/$log:" >&2
        grep -av '^ *#[0-9]\|^INFO\|NEW_FUNC' "$log" | tail -n 40 >&2
        return 1
    fi
}

for target in "${targets[@]}"; do
    cargo +nightly fuzz build -s "$sanitizer" "$target" || { echo "$target does not build" >&2; exit 1; }
done
status=0
running=0
for target in "${targets[@]}"; do
    fuzz "$target" &
    running=$((running + 1))
    if [ "$running" -ge "$jobs" ]; then
        wait -n || status=1
        running=$((running - 1))
    fi
done
while [ "$running" -gt 0 ]; do
    wait -n || status=1
    running=$((running - 1))
done
exit $status
