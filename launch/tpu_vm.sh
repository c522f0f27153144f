#!/usr/bin/env bash
# Trains on a Cloud TPU VM or on all hosts of a slice (docs/launch/tpu.md).
#
#   launch/tpu_vm.sh ACTION [arguments]
#
#   train ARGUMENTS  creates the TPU if there is none, installs, runs, waits;
#                    after a preemption or a lost process does so again. The same
#                    command again waits for a run that is under way.
#   create           creates the TPU
#   install          copies this checkout to all hosts and installs it there
#   run ARGUMENTS    starts training on all hosts, in the background
#   status           says how the run stands on each host
#   logs [HOST]      follows the log of a host (0)
#   stop             tells the run to write a checkpoint and end
#   delete           deletes the TPU and what is on its disks
#
# ARGUMENTS are those of dynashare_jax.main. From the environment:
#
#   TPU          its name (dynashare)
#   ZONE         where it is or will be, such as us-central1-a (needed)
#   PROJECT      default that of gcloud
#   ACCELERATOR  its type and size, such as v6e-8 (needed to create it)
#   VERSION      of its software (that of the accelerator's generation)
#   SPOT=1       creates a Spot TPU: cheap, and taken away at any time
#   BUCKET       a bucket that all hosts then see as ~/shared
#   RESTARTS     how often `train` starts again (20)
#   POLL         seconds from one look to the next (60)
#   DRY_RUN=1    only shows what gcloud would be asked
set -uo pipefail

here=dynashare          # below the home of a host
run=$HOME/dynashare-run
python=$HOME/dynashare-venv/bin/python

fail() {
  echo "error: $*" >&2
  exit 2
}

call() {
  if [ -n "${DRY_RUN:-}" ]; then
    { printf '%q ' gcloud "$@" && echo; } >&3
  else
    gcloud "$@" 3>&-
  fi
}

tpu() {  # VERB [flags]: of the TPU
  local verb=$1
  shift
  call compute tpus tpu-vm "$verb" "$name" "${where[@]}" "$@"
}

on() {  # HOST ACTION [arguments]: calls this script there
  local host=$1 words
  shift
  printf -v words ' %q' "$@"
  tpu ssh --worker="$host" --command="BUCKET=$(printf %q "${BUCKET:-}") \
bash $here/launch/tpu_vm.sh$words"
}

version() {
  case $ACCELERATOR in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-* | v3-* | v2-*) echo tpu-ubuntu2204-base ;;
    *) return 1 ;;
  esac
}

create() {
  local chosen more=()
  [ -n "${ACCELERATOR:-}" ] || fail "set ACCELERATOR, such as v6e-8"
  chosen=${VERSION:-$(version)} || fail "set VERSION for $ACCELERATOR"
  [ -z "${SPOT:-}" ] || more=(--spot)
  tpu create --accelerator-type="$ACCELERATOR" --version="$chosen" \
    ${more[@]+"${more[@]}"}
}

install() {
  local source bundle status=0
  source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
  bundle=$(mktemp) || return
  tar -czf "$bundle" -C "$source" --exclude=__pycache__ pyproject.toml \
    setup.cfg README.md LICENSE configs dynashare_jax launch &&
    call compute tpus tpu-vm scp "$bundle" "$name:$here.tar.gz" --worker=all \
      "${where[@]}" &&
    tpu ssh --worker=all --command="mkdir -p $here && \
tar -xzf $here.tar.gz -C $here" &&
    on all on-host-install || status=$?
  rm -f "$bundle"
  return "$status"
}

# Waits for the run: 0 if it finished, 2 after the user's error, 1 otherwise.
await() {
  local lines ended
  while true; do
    lines=$(on all on-host-status) || return 1
    ended=$(grep -o ': ended with [0-9]*$' <<<"$lines" | sort -u)
    grep -q ': running$' <<<"$lines" || break
    sleep "$poll"
  done
  echo "$lines"
  case ${ended//: ended with /} in
    0) return 0 ;;
    2 | $'0\n2') return 2 ;;
    *) return 1 ;;
  esac
}

# Makes sure that there is a TPU on which the run is under way.
begin() {
  local state
  state=$(tpu describe --format='value(state)' 2>/dev/null)
  case $state in
    READY)
      if on all on-host-status 2>/dev/null | grep -q ': running$'; then
        echo "waits for the run that is under way"
        return
      fi
      ;;
    PREEMPTED | TERMINATED) delete && create || return ;;
    '') create || return ;;
    *)
      echo "the TPU is $state" >&2
      return 1
      ;;
  esac
  install && on all on-host-run "$@"
}

train() {
  local status start
  for ((start = 0; ; start++)); do
    begin "$@"
    status=$?
    [ -z "${DRY_RUN:-}" ] || exit "$status"
    if [ "$status" -eq 0 ]; then
      await
      status=$?
      case $status in 0 | 2) exit "$status" ;; esac
    fi
    [ "$start" -lt "${RESTARTS:-20}" ] || exit "$status"
    echo "restart $((start + 1)) of ${RESTARTS:-20}" >&2
    sleep "$poll"
  done
}

delete() { tpu delete --quiet; }

# What follows runs on a host of the TPU.

on_host_install() {
  local uv=$HOME/.local/bin/uv list=/etc/apt/sources.list.d/gcsfuse.list
  if ! [ -x "$uv" ]; then  # brings its own Python; that of the host is too old
    curl -LsSf https://astral.sh/uv/install.sh | sh || return
  fi
  [ -x "$python" ] ||
    "$uv" venv --quiet --python 3.12 "$HOME/dynashare-venv" || return
  (cd "$HOME/$here" &&
    "$uv" pip install --quiet --python "$python" -e '.[tpu]') || return
  if [ -n "${BUCKET:-}" ] && ! command -v gcsfuse >/dev/null; then
    curl -sSf https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null &&
      echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc]" \
        "https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee "$list" >/dev/null &&
      sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse || return
  fi
}

on_host_run() {
  if on_host_status | grep -q ': running$'; then
    fail "a run is under way on $(hostname); stop it first"
  fi
  mkdir -p "$run" "$HOME/shared" || return
  if [ -n "${BUCKET:-}" ] && ! mountpoint -q "$HOME/shared"; then
    # No memory of what is there: another host may have changed it.
    gcsfuse --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
      "$BUCKET" "$HOME/shared" || return
  fi
  rm -f "$run/status"
  echo "== $(date)" >>"$run/log"
  setsid nohup bash "$0" on-host-wait "$@" </dev/null >>"$run/log" 2>&1 &
  echo $! >"$run/pid"
}

on_host_wait() {
  local child told=1 status
  cd "$HOME/$here" || return
  "$python" -m dynashare_jax.main "$@" &
  child=$!
  trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM
  while [ -n "$told" ]; do  # a signal ends the wait, not the child
    told=''
    wait "$child"
    status=$?
  done
  echo "$status" >"$run/status"
}

on_host_status() {
  if [ -f "$run/status" ]; then
    echo "$(hostname): ended with $(<"$run/status")"
  elif [ -f "$run/pid" ] && kill -0 "$(<"$run/pid")" 2>/dev/null; then
    echo "$(hostname): running"
  elif [ -f "$run/pid" ]; then
    echo "$(hostname): ended with 137"
  else
    echo "$(hostname): not started"
  fi
}

on_host_stop() { [ ! -f "$run/pid" ] || kill -TERM "$(<"$run/pid")"; }

action=${1:-}
[ $# -eq 0 ] || shift
case $action in
  on-host-*)
    "${action//-/_}" "$@"
    exit
    ;;
  train | create | install | run | status | logs | stop | delete) ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac
exec 3>&1
name=${TPU:-dynashare}
poll=${POLL:-60}
[ -n "${ZONE:-}" ] || fail "set ZONE, such as us-central1-a"
where=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")
case $action in
  run) on all on-host-run "$@" ;;
  status) on all on-host-status ;;
  stop) on all on-host-stop ;;
  logs) tpu ssh --worker="${1:-0}" \
    --command="tail -n 100 -F dynashare-run/log" ;;
  *) "$action" "$@" ;;
esac
