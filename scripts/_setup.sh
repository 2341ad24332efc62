# Sourced by the scripts beside it: makes .venv with everything that they need, once, and says what it does.
# Sets: root (the project's folder), python (the environment's interpreter). Reads: wanted_python, wanted_jax, wanted_extras.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '[%s] %s\n' "${0##*/}" "$*"; }

runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# A name such as python3.12 may be on the PATH and yet not start (version managers put such names there): look where they keep the real one.
find_python() {
  local name candidate
  for name in "$@"; do
    for candidate in "$name" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"${name#python}".*/bin/python3; do
      if runs "$candidate"; then echo "$candidate"; return 0; fi
    done
  done
  return 1
}

make_environment() {
  local venv base stamp want have
  if [ -n "${wanted_python:-}" ]; then
    base="$(find_python "$wanted_python")" || { say "error: $wanted_python does not start, or is older than Python 3.11"; exit 2; }
  else
    base="$(find_python python3.11 python3 python3.12 python3.13)" || { say "error: found no Python 3.11 or newer"; exit 2; }
  fi
  venv="$root/.venv"
  [ -z "${wanted_python:-}${wanted_jax:-}" ] || venv="$root/.venv-$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')${wanted_jax:+-jax$wanted_jax}"
  python="$venv/bin/python"
  stamp="$venv/installed"
  want="$(cat "$root/setup.py" "$root/constraints.txt" | cksum) ${wanted_jax:-}${wanted_extras:-}"
  if [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    say "using $venv"
    return
  fi
  say "making $venv with $("$base" --version) (about a minute)"
  [ -x "$python" ] || "$base" -m venv "$venv"
  if [ -n "${wanted_jax:-}" ]; then
    say "installing decoder_lab with jax $wanted_jax; the other packages as pinned, but for those that follow jax"
    grep -vE '^(jax|jaxlib|flax|optax|chex|orbax-checkpoint)==' "$root/constraints.txt" > "$venv/constraints.txt"
    "$python" -m pip install --quiet --disable-pip-version-check -e "$root[dev${wanted_extras:-}]" "jax==$wanted_jax" -c "$venv/constraints.txt"
  else
    say "installing decoder_lab and what constraints.txt pins"
    "$python" -m pip install --quiet --disable-pip-version-check -e "$root[dev${wanted_extras:-}]" -c "$root/constraints.txt"
  fi
  echo "$want" > "$stamp"
}
