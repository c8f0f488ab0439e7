# The targets, and what each is given: for run.sh and campaign.sh, which include it. The working directory is fuzz/.
# shellcheck shell=bash

# shellcheck disable=SC2034
read -r -a targets <<< "${TARGETS:-open_bytes open_resealed write_model values salvage safetensors npy torch_zip torch_pickle pipeline_state failed_log feature_table}"

# The folders of inputs, the first of which new ones are put into.
folders_of() {
    local target=$1 folder folders=("corpus/$1")
    for folder in "seeds/$target" "regressions/$target"; do [ -d "$folder" ] && folders+=("$folder"); done
    # What is a checkpoint to one target may be a table to another.
    case $target in feature_table) folders+=(seeds/torch_zip) ;; esac
    case $target in feature_table | torch_zip) folders+=(../tests/torch_data) ;; esac
    case $target in npy) folders+=(../tests/guests_data) ;; esac
    case $target in open_*) folders+=(../spec/vectors/accept ../spec/vectors/reject) ;; esac
    echo "${folders[*]}"
}

# The libFuzzer options are the same for all, so that a find is the same find for everyone.
options_of() {
    local options=(-max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -close_fd_mask=1)
    case $1 in values | open_bytes | salvage) options+=(-dict=dolmen.dict) ;; torch_* | feature_table | npy) options+=(-dict=torch.dict) ;; esac
    echo "${options[*]}"
}
