#!/usr/bin/env bash
# Lines of each room of src/ that the inputs of tests/corpus.rs reach, and which they do not.
#
#   fuzz/coverage.sh [CORPORA]      with the corpora of a campaign besides, such as fuzz/corpus
#
# Needs nightly with llvm-tools. Tests within files of src/ do not count, neither as lines nor as what reaches them: what is counted is one
# test binary that is none of them. Work and results are in fuzz/coverage/; summary.txt lists the lines of each file that are not reached.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/fuzz/coverage
mkdir -p "$out"
rm -f "$out"/*.profraw
export CARGO_INCREMENTAL=0 RUSTFLAGS="-C instrument-coverage --cfg dolmen_coverage" CARGO_TARGET_DIR="$PWD/fuzz/target/coverage"
LLVM_PROFILE_FILE=/dev/null cargo +nightly test --locked -q --test corpus --no-run
binary=$(find "$CARGO_TARGET_DIR/debug/deps" -name 'corpus-*' -type f -executable -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d ' ' -f 2)
LLVM_PROFILE_FILE="$out/corpus-%p.profraw" "$binary" > "$out/corpus.log" 2>&1
if [ $# -gt 0 ]; then
    corpora=$(realpath "$1")
    for folder in "$corpora"/*/; do
        DOLMEN_TARGET=$(basename "$folder") DOLMEN_CORPUS=$folder LLVM_PROFILE_FILE="$out/corpora-%p.profraw" \
            "$binary" --ignored count_outcomes >> "$out/corpus.log" 2>&1
    done
fi
tools=$(dirname "$(find "$(rustc +nightly --print sysroot)" -name llvm-profdata | head -n 1)")
"$tools/llvm-profdata" merge -sparse "$out"/*.profraw -o "$out/corpus.profdata"
"$tools/llvm-cov" export -format=lcov -instr-profile="$out/corpus.profdata" "$binary" > "$out/corpus.lcov" 2> /dev/null
python3 fuzz/coverage.py "$out/corpus.lcov" > "$out/summary.txt"
sed '/^$/q' "$out/summary.txt"
