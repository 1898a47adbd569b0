#!/usr/bin/env bash
# Make the two databases, if they are not there. PGUSER must exist and may create databases:
#   createuser --createdb --pwprompt fewstep
. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
for name in "$FEWSTEP_PREFECT_DATABASE" "$FEWSTEP_MLFLOW_DATABASE"; do
  there="$(psql -d postgres -XAtq -v ON_ERROR_STOP=1 -v name="$name" <<<"SELECT 1 FROM pg_database WHERE datname = :'name'")"
  if [ "$there" = 1 ]; then
    echo "database $name is there"
  else
    psql -d postgres -Xq -v ON_ERROR_STOP=1 -v name="$name" <<<'CREATE DATABASE :"name"'
    echo "database $name made"
  fi
done
