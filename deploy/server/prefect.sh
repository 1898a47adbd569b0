#!/usr/bin/env bash
# Prefect's server on PostgreSQL. Makes and upgrades its own tables at the start.
. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
port="${FEWSTEP_PREFECT_PORT:-4200}"
export PREFECT_SERVER_DATABASE_DRIVER=postgresql+asyncpg
export PREFECT_SERVER_DATABASE_HOST="$PGHOST" PREFECT_SERVER_DATABASE_PORT="$PGPORT"
export PREFECT_SERVER_DATABASE_USER="$PGUSER" PREFECT_SERVER_DATABASE_PASSWORD="$PGPASSWORD"
export PREFECT_SERVER_DATABASE_NAME="$FEWSTEP_PREFECT_DATABASE"
export PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_LOGGING_LEVEL="${PREFECT_SERVER_LOGGING_LEVEL:-WARNING}"
[ -z "${FEWSTEP_PREFECT_PUBLIC_API:-}" ] || export PREFECT_UI_API_URL="$FEWSTEP_PREFECT_PUBLIC_API"
unset PREFECT_API_URL  # this is the server; as a client's setting it would point the server at itself
exec "${PYTHON:-python3}" -m prefect server start --host "$FEWSTEP_BIND" --port "$port"
