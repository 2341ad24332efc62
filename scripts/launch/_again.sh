# Sourced by the scripts beside it: starts a command again for as long as a run can go on.
#
#   again run_once     run_once is a function; its status decides:
#     0                done
#     1, 2             an error that would come again: stop with it
#     75, above 128    stopped or lost with everything saved, or killed: start it again
# A command that ends within QUICK seconds RETRIES times in a row is not started again. One that sets `none` had nothing to run on: that counts
# for neither, and is tried again after pauses that grow to MAX_PAUSE seconds.

say() { printf '[%s] %s\n' "${0##*/}" "$*"; }

MAX_STARTS="${MAX_STARTS:-1000}" RETRIES="${RETRIES:-5}" QUICK="${QUICK:-60}" PAUSE="${PAUSE:-10}" MAX_PAUSE="${MAX_PAUSE:-600}"
attempt=0
# shellcheck disable=SC2034  # set by those who source this
stopping="" none=""

resumable() { [ "$1" -eq 75 ] || [ "$1" -gt 128 ]; }

again() {
  local status began quick=0 pause="$PAUSE"
  while :; do
    attempt=$((attempt + 1))
    began=$SECONDS status=0 none=""
    "$1" || status=$?
    if [ "$status" -eq 0 ]; then say "done"; return 0; fi
    if ! resumable "$status"; then say "ended with $status: not started again"; return "$status"; fi
    if [ -n "$stopping" ]; then say "stopped; the same command goes on"; return 75; fi
    if [ -n "$none" ]; then
      say "nothing to run on now: asking again in $pause s"
      attempt=$((attempt - 1))
      sleep "$pause"
      pause=$((pause * 2 < MAX_PAUSE ? pause * 2 : MAX_PAUSE))
      continue
    fi
    pause="$PAUSE"
    if [ $((SECONDS - began)) -lt "$QUICK" ]; then quick=$((quick + 1)); else quick=0; fi
    if [ "$quick" -ge "$RETRIES" ]; then say "ended $quick times in a row within $QUICK s, the last time with $status: giving up"; return "$status"; fi
    if [ "$attempt" -ge "$MAX_STARTS" ]; then say "started $attempt times: giving up"; return "$status"; fi
    say "ended with $status after $((SECONDS - began)) s: start $((attempt + 1)) in $PAUSE s"
    sleep "$PAUSE"
  done
}
