#!/usr/bin/env bash
# MLflow's server on PostgreSQL, with its files on S3. `mlflow.sh upgrade` brings the tables to the installed version.
. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
port="${FEWSTEP_MLFLOW_PORT:-5000}"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# In the environment, since MLflow shows its command line in its log.
export MLFLOW_BACKEND_STORE_URI="$FEWSTEP_MLFLOW_STORE"
unset MLFLOW_TRACKING_URI  # this is the server
if [ "${1:-}" = upgrade ]; then
  exec "${PYTHON:-python3}" -m mlflow db upgrade "$FEWSTEP_MLFLOW_STORE"
fi
if [ -z "${MLFLOW_ARTIFACTS_DESTINATION:-}" ]; then
  echo "error: MLFLOW_ARTIFACTS_DESTINATION is not set: where MLflow's files go, s3://bucket/prefix" >&2
  exit 2
fi
if [ -n "${MLFLOW_S3_ENDPOINT_URL:-}" ]; then  # most servers other than AWS refuse boto3's newer checksums
  export AWS_REQUEST_CHECKSUM_CALCULATION="${AWS_REQUEST_CHECKSUM_CALCULATION:-WHEN_REQUIRED}"
else
  unset MLFLOW_S3_ENDPOINT_URL
fi
# MLflow answers 403 to a Host header that it does not know, and compares it with its port: name both forms.
names="localhost,127.0.0.1,[::1]${FEWSTEP_MLFLOW_HOSTS:+,$FEWSTEP_MLFLOW_HOSTS}"
hosts="" origins=""
IFS=, read -ra each <<<"$names"
for name in "${each[@]}"; do
  name="${name// /}"
  [ -n "$name" ] || continue
  hosts+="${hosts:+,}$name,$name:$port"
  [ "$name" = "${name%:*}" ] || [[ "$name" == \[* ]] || { echo "error: FEWSTEP_MLFLOW_HOSTS: $name has a port; name the host alone" >&2; exit 2; }
  origins+="${origins:+,}http://$name:$port,https://$name"
done
exec "${PYTHON:-python3}" -m mlflow server --host "$FEWSTEP_BIND" --port "$port" --workers "${FEWSTEP_MLFLOW_WORKERS:-4}" \
  --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" --allowed-hosts "$hosts" --cors-allowed-origins "$origins"
