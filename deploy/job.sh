#!/usr/bin/env bash
# Submits a study to a running Ray cluster and follows it; the same command again goes on with it.
#   RAY_ADDRESS=http://HEAD:8265 deploy/job.sh deploy/study.yaml /shared/runs/check [--key value ...]
# The folder must be on a disk that all nodes share. PGPASSWORD belongs into the environment of the nodes, where the
# job's driver runs; what is given in --runtime-env-json can be read in the dashboard.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: RAY_ADDRESS=http://HEAD:8265 $0 STUDY.yaml FOLDER [--key value ...]" >&2
    exit 2
fi
study=$1 folder=$2
shift 2
# the study alone travels; the code is in the nodes' image
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp "$study" "$place/study.yaml"
# a job runs once: its number tells one attempt at the study from the next
ray job submit --address "${RAY_ADDRESS:?the address of the dashboard, http://HEAD:8265}" \
    --submission-id "sweep-$(basename "$folder")-$(date +%s)" --working-dir "$place" \
    -- pulseledger sweep study.yaml --address auto --out "$folder" "$@"
