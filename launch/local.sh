#!/usr/bin/env bash
# Trains in several processes on this machine.
#
#   launch/local.sh PROCESSES DEVICES [arguments of dynashare_jax.main]
#
# DEVICES is the number of CPU devices of each process; with 0 every process
# takes what jax finds. PYTHON names the interpreter, PORT the coordinator's port
# (default 29500), LOGS the folder of the logs, one a process (default
# runs/logs). Ends with the first status that is not 0; when a process fails, the
# others are told to end.
set -uo pipefail

if [ $# -lt 2 ] || ! [[ "$1$2" =~ ^[0-9]+$ ]] || [ "$1" -lt 1 ]; then
  echo "usage: $0 PROCESSES DEVICES [arguments of dynashare_jax.main]" >&2
  exit 2
fi
processes=$1
devices=$2
shift 2

logs=${LOGS:-runs/logs}
mkdir -p "$logs" || exit 2
if [ "$devices" -gt 0 ]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices
fi

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; exit 130' INT TERM
for ((i = 0; i < processes; i++)); do
  "${PYTHON:-python}" -m dynashare_jax.main "$@" \
    --coordinator="localhost:${PORT:-29500}" --processes="$processes" \
    --process_id="$i" >"$logs/process-$i.log" 2>&1 &
  pids+=($!)
done
echo "$processes processes; logs in $logs"

status=0
for ((left = processes; left > 0; left--)); do
  wait -n
  found=$?
  if [ "$found" -ne 0 ] && [ "$status" -eq 0 ]; then
    status=$found
    # Long enough for each to say why.
    (sleep "${GRACE:-15}"; kill "${pids[@]}") >/dev/null 2>&1 &
    disown
  fi
done
[ "$status" -eq 0 ] || tail -n 3 "$logs"/process-*.log >&2
exit "$status"
