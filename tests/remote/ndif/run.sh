#!/usr/bin/env bash
# The tests of tests/remote against a real NDIF server (ndif 0.1.2 with Ray, redis and a stand-in
# for S3) on loopback, on the CPU: in the trusted mode, then in the sandboxed one. `make ndif`.
# Wants redis-server (Debian: apt-get install redis-server) and PyPI. Ends what it started, by id.
set -euo pipefail
cd "$(dirname "$0")/../../.."
HERE=tests/remote/ndif
DEV=$(.venv/bin/python -c 'import sys; print(sys.executable)' 2>/dev/null || echo "${PYTHON:-python3}")
NDIF=$(realpath -m "${NDIF_VENV:-.venv-ndif}")
WORK=$(mktemp -d -t ndif.XXXX) # Ray makes sockets in it: the path must be short
SITE() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

if [ ! -e "$NDIF/.done" ]; then
  "$DEV" -m venv "$NDIF"
  PIP="$NDIF/bin/python -m pip --disable-pip-version-check -qq"
  SITE "$DEV" >"$(SITE "$NDIF/bin/python")/zz_dev.pth" # torch is there already
  $PIP install --no-deps --ignore-requires-python ndif==0.1.2
  $PIP install "ray[default]" fastapi "uvicorn[standard]" gunicorn python-multipart "redis<6" click \
    python-dotenv pyyaml boto3 "moto[server]" psutil "huggingface-hub>=1.5,<2"
  # What the patches change, and what the first environment has in another version, is its own.
  $PIP install --no-deps --ignore-installed peft accelerate transformers==5.17.0 nnsight==0.8.1
  "$NDIF/bin/python" $HERE/patch.py "$(SITE "$NDIF/bin/python")"
  touch "$NDIF/.done"
fi
command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install redis-server"; exit 1; }

export PATH="$NDIF/bin:$PATH" HF_HUB_OFFLINE=1 GRPC_ENABLE_FORK_SUPPORT=0 OMP_NUM_THREADS=1
export RAY_USAGE_STATS_ENABLED=0 NDIF_REDIS_URL=redis://127.0.0.1:6390/
export NDIF_OBJECT_STORE_URL=http://127.0.0.1:27018 NDIF_OBJECT_STORE_PUBLIC_URL=http://127.0.0.1:27018
export NDIF_OBJECT_STORE_ACCESS_KEY=minioadmin NDIF_OBJECT_STORE_SECRET_KEY=minioadmin
export NDIF_RAY_ADDRESS=ray://127.0.0.1:10001 NDIF_RAY_TEMP_DIR=$WORK/ray NDIF_HOME=$WORK/home
export GUNICORN_CMD_ARGS="--bind 127.0.0.1:8001"
export NDIF_API_PORT=8001 NDIF_API_WORKERS=1 NDIF_DEFAULT_DTYPE=float32 NDIF_SANDBOX_POOL_SIZE=1
export NDIF_DEFAULT_MODEL_ACTOR_CLASS=ndif.services.ray.sandbox.model.SandboxModelActor
export NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS=0
mkdir -p "$NDIF_RAY_TEMP_DIR" "$NDIF_HOME"

STARTED=()
finish() {
  # Ray's own processes leave the group of their parent: they are known by our folder's name.
  local id
  for id in "${STARTED[@]}"; do kill -- "-$id" 2>/dev/null || true; done
  for id in $(pgrep -f "$WORK" || true); do [ "$id" = $$ ] || kill "$id" 2>/dev/null || true; done
  sleep 3
  for id in "${STARTED[@]}"; do kill -9 -- "-$id" 2>/dev/null || true; done
  for id in $(pgrep -f "$WORK" || true); do [ "$id" = $$ ] || kill -9 "$id" 2>/dev/null || true; done
  rm -rf "$WORK"
}
trap finish EXIT
launch() { # name command...
  local name=$1
  shift
  # Not from here: this package must not be found on the server.
  # Each in a group of its own, which is ended as one: the API has children.
  set -m
  (cd "$WORK" && unset PYTHONPATH && exec "$@" >"$WORK/$name.log" 2>&1) &
  STARTED+=($!)
  set +m
}

SERVICES=$(SITE "$NDIF/bin/python")/ndif/services
launch redis redis-server --port 6390 --save "" --bind 127.0.0.1
launch s3 moto_server -H 127.0.0.1 -p 27018
launch ray bash "$SERVICES/ray/start.sh"
for _ in $(seq 120); do # the API gives up where Ray is not there yet
  (exec 3<>/dev/tcp/127.0.0.1/10001) 2>/dev/null && break
  sleep 2
done
launch api bash "$SERVICES/api/start.sh"
for _ in $(seq 120); do
  curl -sf http://127.0.0.1:8001/status >/dev/null && break
  sleep 2
done
curl -sf http://127.0.0.1:8001/status >/dev/null || { tail -n 40 "$WORK"/*.log; exit 1; }

"$DEV" -c "
from tests import tiny
tiny.hf_model().save_pretrained('$WORK/model')
tiny.processor().save_pretrained('$WORK/model')"
export VSINK_NDIF=http://127.0.0.1:8001 VSINK_NDIF_MODEL=$WORK/model
status=0
for trusted in 1 0; do
  echo "==> trusted=$trusted"
  VSINK_NDIF_TRUSTED=$trusted "$DEV" -m pytest -q tests/remote/test_laws.py tests/remote/test_jobs.py \
    -k "not names_its_line and not queue" || { status=1; tail -n 30 "$WORK"/ray.log "$WORK"/api.log; }
done
exit $status
