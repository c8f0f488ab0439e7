#!/usr/bin/env bash
# A campaign: rounds of all targets for as long as it is let run, each run's executions written down.
#
#   fuzz/campaign.sh build            builds all targets as they are now, without a sanitizer and with AddressSanitizer
#   fuzz/campaign.sh run [SECONDS]    rounds until so many seconds are over (default: until it is killed, which loses nothing)
#   fuzz/campaign.sh table            what was done so far, summed up
#
# State is in fuzz/campaign/: bin/ (what `build` made), log.tsv (a line for each run: date, commit, target, sanitizer, executions, seconds,
# edges, features, inputs in the corpus, result) and artifacts/. Corpora are those of fuzz/corpus/. It can be stopped and begun again, and
# built anew while it runs. SLICE is how long a run of a target lasts (default 60 seconds). With a sanitizer a target runs whenever less than
# 6 % of its executions were with it. The next target is the one furthest from its goal (`goal` below). Nice with itself; it uses one core,
# and may be started several times.
set -u
cd "$(dirname "$0")"
state=$PWD/campaign
log=$state/log.tsv
slice=${SLICE:-60}
# Shared with run.sh: targets, folders of inputs, options.
# shellcheck source=targets.sh
. ./targets.sh

build() {
    local sanitizer target
    for sanitizer in none address; do
        mkdir -p "$state/bin/$sanitizer"
        nice -n 10 cargo +nightly fuzz build -s "$sanitizer" --target-dir "target/campaign-$sanitizer" || return 1
        for target in "${targets[@]}"; do
            # Replaced, not written to: a run may be using the old one.
            cp "target/campaign-$sanitizer/$(rustc -vV | sed -n 's/^host: //p')/release/$target" "$state/bin/$sanitizer/$target.new" || return 1
            mv "$state/bin/$sanitizer/$target.new" "$state/bin/$sanitizer/$target"
        done
        git rev-parse --short=10 HEAD > "$state/bin/$sanitizer/commit"
    done
}

# Executions of a target with a sanitizer, or with any.
executions() {
    awk -F '\t' -v target="$1" -v sanitizer="$2" '$3 == target && (sanitizer == "" || $4 == sanitizer) { sum += $5 } END { print sum + 0 }' "$log"
}

fuzz() {
    local target=$1 sanitizer=$2 out=$state/$1-$2.out result=nothing begun=$SECONDS
    mkdir -p "$state/artifacts/$target" "corpus/$target"
    local folders options
    read -r -a folders <<< "$(folders_of "$target")"
    read -r -a options <<< "$(options_of "$target")"
    nice -n 19 "$state/bin/$sanitizer/$target" -artifact_prefix="$state/artifacts/$target/" -max_total_time="$slice" \
        "${options[@]}" "${folders[@]}" > "$out" 2>&1 || result=FOUND
    local count edges features inputs
    count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out" | tail -n 1)
    edges=$(grep -ao 'cov: [0-9]*' "$out" | tail -n 1 | cut -d ' ' -f 2)
    features=$(grep -ao 'ft: [0-9]*' "$out" | tail -n 1 | cut -d ' ' -f 2)
    inputs=$(grep -ao 'corp: [0-9]*' "$out" | tail -n 1 | cut -d ' ' -f 2)
    [ "$result" = nothing ] || cp "$out" "$state/artifacts/$target/$(date -u +%H%M%S)-$sanitizer.out"
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%FT%TZ)" "$(cat "$state/bin/$sanitizer/commit")" "$target" "$sanitizer" \
        "${count:-0}" "$((SECONDS - begun))" "${edges:-0}" "${features:-0}" "${inputs:-0}" "$result" >> "$log"
}

# A hundred million in all: most of them by the targets that are fast, and of each at least a million.
goal() {
    case $1 in
    open_bytes | safetensors) echo 33000000 ;;
    pipeline_state) echo 14000000 ;;
    values) echo 6000000 ;;
    open_resealed | torch_pickle) echo 3000000 ;;
    write_model | salvage | npy | failed_log) echo 2000000 ;;
    *) echo 1200000 ;;
    esac
}

# The target that is furthest from its goal and that no other runner is at.
next_target() {
    local target
    for target in "${targets[@]}"; do
        [ -x "$state/bin/none/$target" ] || continue
        # What finds something finds it again, until it is repaired and built.
        [ "$(tail -n 200 "$log" | awk -F '\t' -v target="$target" '$3 == target { last = $2 $10 } END { print last }')" != "$(cat "$state/bin/none/commit")FOUND" ] || continue
        echo "$(($(executions "$target" "") * 10000 / $(goal "$target"))) $RANDOM $target"
    done | sort -n | while read -r _ _ target; do
        # Taken by whoever makes the folder; one whose runner is gone is free.
        if mkdir "$state/running/$target" 2> /dev/null || ! kill -0 "$(cat "$state/running/$target/pid" 2> /dev/null || echo 0)" 2> /dev/null; then
            echo $$ > "$state/running/$target/pid"
            echo "$target"
            break
        fi
    done
}

run() {
    local until=${1:-0} target sanitizer total
    mkdir -p "$state/running"
    touch "$log"
    while [ "$until" = 0 ] || [ "$SECONDS" -lt "$until" ]; do
        target=$(next_target)
        [ -n "$target" ] || { echo "no target is built, or none is free" >&2; return 1; }
        total=$(executions "$target" "")
        sanitizer=none
        if [ -x "$state/bin/address/$target" ] && [ $(($(executions "$target" address) * 100)) -lt $((total * 6)) ]; then sanitizer=address; fi
        fuzz "$target" "$sanitizer"
        rm -rf "$state/running/$target"
    done
}

table() {
    echo "| target | executions | with AddressSanitizer | executions/s without it | edges | features | inputs | runs that found something |"
    echo "|---|---:|---:|---:|---:|---:|---:|---:|"
    awk -F '\t' '
        { sum[$3] += $5; if ($4 == "address") asan[$3] += $5; else time[$3] += $6; if ($4 != "address") plain[$3] += $5
          if ($7 > edges[$3]) edges[$3] = $7; if ($8 > ft[$3]) ft[$3] = $8; inputs[$3] = $9; if ($10 == "FOUND") finds[$3]++
          seconds += $6; all += $5; allasan += ($4 == "address") * $5; commits[$2] = 1 }
        END {
            for (t in sum) printf "| `%s` | %d | %d | %d | %d | %d | %d | %d |\n", t, sum[t], asan[t], time[t] ? plain[t] / time[t] : 0, edges[t], ft[t], inputs[t], finds[t] | "sort"
            close("sort")
            printf "| all | %d | %d | | | | | |\n\n%.1f hours of one core; commits:", all, allasan, seconds / 3600
            for (c in commits) printf " %s", c
            printf "\n" }' "$log"
}

case ${1:-} in
build) build ;;
run) run "${2:-0}" ;;
table) table ;;
*) sed -n '2,/^set/p' "$0" | grep '^#' >&2; exit 1 ;;
esac
