#!/usr/bin/env bash
# Submits a study to a running Ray cluster and follows it; the same command again goes on with it.
#   RAY_ADDRESS=http://HEAD:8265 deploy/job.sh deploy/study.yaml /shared/runs/check [--key value ...]
# The folder must be on a disk that all nodes share. PGPASSWORD belongs into the environment of the nodes, where the
# job's driver runs; what is given in --runtime-env-json can be read in the dashboard.
set -euo pipefail
if [ $# -lt 2 ] || [ -z "${RAY_ADDRESS:-}" ]; then
    echo "usage: RAY_ADDRESS=http://HEAD:8265 $0 STUDY.yaml FOLDER [--key value ...]" >&2
    exit 2
fi
study=$1 folder=$2
shift 2
# whoever has the cluster's token may submit; Ray looks for it only in this mode
if [ -z "${RAY_AUTH_MODE:-}" ]; then
    if [ -n "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] || [ -s ~/.ray/auth_token ]; then
        export RAY_AUTH_MODE=token
    fi
fi
token=${RAY_AUTH_TOKEN:-$(cat "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" 2>/dev/null || true)}
[ "${RAY_AUTH_MODE:-}" = token ] || token=
# a question first: what `ray job submit` makes of a missing cluster or a wrong token is a traceback
said=$(TOKEN=$token python3 - "$RAY_ADDRESS" <<'PYTHON'
import os, sys, urllib.error, urllib.request
address, token = sys.argv[1], os.environ["TOKEN"].strip()
try:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"} if token else {})
    urllib.request.urlopen(request, timeout=10).close()
except urllib.error.HTTPError as error:
    wants = "wants the cluster's token, which RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token must hold here, too"
    print(f"{address} {wants if error.code in (401, 403) else 'is no dashboard of Ray'} (HTTP {error.code})")
except (OSError, ValueError) as error:
    print(f"no dashboard of Ray at {address} ({getattr(error, 'reason', error)})")
PYTHON
)
if [ -n "$said" ]; then
    echo "$0: $said." >&2
    exit 2
fi
# the study alone travels; the code is in the nodes' image
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp "$study" "$place/study.yaml"
# a job runs once: its number tells one attempt at the study from the next
ray job submit --address "$RAY_ADDRESS" \
    --submission-id "sweep-$(basename "$folder")-$(date +%s)" --working-dir "$place" \
    -- pulseledger sweep study.yaml --address auto --out "$folder" "$@"
