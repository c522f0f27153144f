#!/usr/bin/env bash
# Trains in several processes on this machine (docs/launch/local.md).
#
#   launch/local.sh PROCESSES DEVICES [arguments of dynashare_jax.main]
#
# DEVICES is the number of CPU devices of each process; with 0 every process
# takes what jax finds. From the environment:
#
#   PYTHON    the interpreter (python)
#   PORT      of process 0, for the others to find it (29500)
#   LOGS      folder of the logs, one a process (runs/logs)
#   RESTARTS  how often all are started again after one ended with a status
#             other than 0 and 2, the user's error (0)
#   GRACE     seconds after which processes are killed that did not end by
#             themselves, counted from a signal or the first failure (60)
#   WARM      1: one process imports everything, and all are forked from it,
#             so that a restart imports nothing (0)
#
# Where a signal ends one process, the others, which can only wait for it, are
# killed at once, unless it was SIGTERM or SIGINT, which ask for a checkpoint.
# SIGTERM and Ctrl-C are handed on, so that a checkpoint is written. Ends with
# the first status that is not 0: 143 after SIGTERM, 2 after a user's error.
set -uo pipefail

usage() {
  echo "usage: $0 PROCESSES DEVICES [arguments of dynashare_jax.main]" >&2
  exit 2
}
whole() { [[ "$1" =~ ^[0-9]+$ ]]; }

[ $# -ge 2 ] && whole "$1" && whole "$2" && [ "$1" -ge 1 ] || usage
processes=$1
devices=$2
shift 2
restarts=${RESTARTS:-0}
grace=${GRACE:-60}
warm=${WARM:-0}
for number in "$restarts" "$grace" "$warm"; do
  whole "$number" || { echo "RESTARTS, GRACE and WARM must be numbers" >&2; exit 2; }
done

logs=${LOGS:-runs/logs}
mkdir -p "$logs" || exit 2
if [ "$devices" -gt 0 ]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices
fi

told=0  # the status that a signal asks for
news=0  # whether the processes still have to hear of it
trap 'told=143 news=1' TERM
trap 'told=130 news=1' INT

# Starts process $1 with the other arguments; sets pid.
launch() {
  local i=$1
  shift
  if [ -n "${NURSERY_PID:-}" ]; then
    { echo "$i" >&"$input" && read -r pid <&"$answers"; } 2>/dev/null && return
    NURSERY_PID=''  # it is gone
  fi
  "${PYTHON:-python}" -m dynashare_jax.main "$@" --process_id="$i" \
    >>"$logs/process-$i.log" 2>&1 &
  pid=$!
}

# Sets found to the status of an ended process.
collect() {
  wait "$1" 2>/dev/null
  found=$?
  if [ "$found" -eq 127 ] && [ "$warm" -ne 0 ]; then  # no child of the shell, but of the nursery
    found=137
    [ ! -f "$logs/.status-$1" ] || read -r found <"$logs/.status-$1"
    rm -f "$logs/.status-$1"
  fi
}

# Starts all processes and waits for them; sets status.
run() {
  local pids=() deadline='' i pid found
  status=0
  for ((i = 0; i < processes; i++)); do
    launch "$i" "$@"
    pids[i]=$pid
  done
  while [ "${#pids[@]}" -gt 0 ]; do
    if [ "$news" -ne 0 ]; then
      news=0
      kill -TERM "${pids[@]}" 2>/dev/null
      deadline=${deadline:-$((SECONDS + grace))}
    fi
    sleep 0.1
    for i in "${!pids[@]}"; do
      kill -0 "${pids[i]}" 2>/dev/null && continue
      collect "${pids[i]}"
      unset "pids[i]"
      if [ "$found" -ne 0 ] && [ "$status" -eq 0 ]; then
        status=$found
        deadline=${deadline:-$((SECONDS + grace))}
        case $found in
          130 | 143) ;;
          129 | 1[3-9]?) deadline=$SECONDS ;;
        esac
      fi
    done
    if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ] &&
      [ "${#pids[@]}" -gt 0 ]; then
      kill -KILL "${pids[@]}" 2>/dev/null
    fi
  done
}

for ((i = 0; i < processes; i++)); do
  : >"$logs/process-$i.log" || exit 2
done
set -- "$@" --coordinator="localhost:${PORT:-29500}" --processes="$processes"
if [ "$warm" -ne 0 ]; then
  trap '' PIPE
  coproc NURSERY { exec "${PYTHON:-python}" -m dynashare_jax.cli.nursery "$logs" "$@"; }
  answers=${NURSERY[0]} input=${NURSERY[1]}
fi
echo "$processes processes; logs in $logs"
for ((start = 0; ; start++)); do
  run "$@"
  case $status in 0 | 2) break ;; esac
  [ "$told" -eq 0 ] && [ "$start" -lt "$restarts" ] || break
  echo "a process ended with status $status; restart $((start + 1)) of" \
    "$restarts" >&2
done
if [ -n "${NURSERY_PID:-}" ]; then
  pid=$NURSERY_PID
  exec {input}>&-  # its end
  wait "$pid"
fi
[ "$status" -ne 143 ] || [ "$told" -eq 0 ] || status=$told
[ "$status" -eq 0 ] || tail -n 3 "$logs"/process-*.log >&2
exit "$status"
