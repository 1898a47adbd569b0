# Read by the other scripts: settings from the environment, else from ./settings (or the file in FEWSTEP_SETTINGS).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
file="${FEWSTEP_SETTINGS:-$here/settings}"
if [ -f "$file" ]; then
  while IFS= read -r line || [ -n "$line" ]; do
    name="${line%%=*}"
    case "$line" in '' | '#'*) continue ;; esac
    [[ "$name" =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || { echo "error: $file: not a NAME=value line: $name" >&2; exit 2; }
    [ -n "${!name:-}" ] || export "$name=${line#*=}"
  done <"$file"
fi
export PGHOST="${PGHOST:-127.0.0.1}" PGPORT="${PGPORT:-5432}" PGUSER="${PGUSER:-fewstep}"
: "${FEWSTEP_PREFECT_DATABASE:=prefect}" "${FEWSTEP_MLFLOW_DATABASE:=mlflow}" "${FEWSTEP_BIND:=127.0.0.1}"
if [ -z "${PGPASSWORD:-}" ]; then
  echo "error: PGPASSWORD is not set: the password of PostgreSQL's user $PGUSER; export it before this script" >&2
  exit 2
fi
export PGPASSWORD PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-10}" DO_NOT_TRACK=1
# Explicit drivers: versions of SQLAlchemy differ in what a bare postgresql:// means. psycopg2 takes the password from PGPASSWORD,
# so that no address, log or process list holds it.
export FEWSTEP_MLFLOW_STORE="postgresql+psycopg2://$PGUSER@$PGHOST:$PGPORT/$FEWSTEP_MLFLOW_DATABASE"
