#!/usr/bin/env bash
# The tests of tests/remote against a real NDIF server (ndif 0.1.2 with Ray, redis and a stand-in
# for S3) on the CPU: in the trusted mode, then in the sandboxed one. Writes docs/remote-ndif-log.md.
# `make ndif`. Wants redis-server (Debian: apt-get install redis-server), and PyPI the first time.
# Everything that it starts has a home folder of its own, by which it is found and ended, by id.
set -euo pipefail
cd "$(dirname "$0")/../../.."
HERE=tests/remote/ndif
DEV=$(.venv/bin/python -c 'import sys; print(sys.executable)' 2>/dev/null || echo "${PYTHON:-python3}")
NDIF=$(realpath -m "${NDIF_VENV:-.venv-ndif}")
SITE() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install redis-server"; exit 1; }

if [ ! -e "$NDIF/.done" ]; then
  "$DEV" -m venv "$NDIF"
  PIP="$NDIF/bin/python -m pip --disable-pip-version-check -qq"
  SITE "$DEV" >"$(SITE "$NDIF/bin/python")/zz_dev.pth" # torch is there already
  $PIP install --no-deps --ignore-requires-python ndif==0.1.2
  $PIP install "ray[default]" fastapi "uvicorn[standard]" gunicorn python-multipart "redis<6" click \
    python-dotenv pyyaml boto3 "moto[server]" psutil "huggingface-hub>=1.5,<2"
  # What the patches change, what the first environment has in another version, and what it has
  # already but with a command of its own (ray), is its own.
  $PIP install --no-deps --ignore-installed peft accelerate transformers==5.17.0 nnsight==0.8.1 \
    ray==2.60.0
  touch "$NDIF/.done"
fi
"$NDIF/bin/python" $HERE/patch.py "$(SITE "$NDIF/bin/python")"

WORK=$(mktemp -d -t ndif.XXXX) # Ray makes sockets in it: the path must be short
STARTED=()
ours() { # redis overwrites its environment: it is known by the number it was given
  local id
  for id in "${STARTED[@]}"; do [ ! -e "/proc/$id" ] || echo "$id"; done
  grep -lazF "HOME=$WORK/home" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}
finish() {
  local signal id
  for signal in TERM TERM KILL; do # gunicorn ends its workers at the first, itself at the second
    for id in $(ours); do kill -$signal "$id" 2>/dev/null || true; done
    for _ in $(seq 20); do [ -z "$(ours)" ] && break; sleep 0.5; done
  done
  rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 130' INT TERM
launch() { # name command...
  local name=$1
  shift
  # Not from here: this package must not be found on the server.
  (cd "$WORK" && unset PYTHONPATH && exec env HOME="$WORK/home" TMPDIR="$WORK" "$@") >"$WORK/$name.log" 2>&1 &
  STARTED+=($!)
}
until_true() { # seconds command...: wait for it
  local until=$((SECONDS + $1))
  shift
  while ! "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { tail -n 40 "$WORK"/*.log; echo "not there in time: $*"; exit 1; }
    sleep 0.5
  done
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

STORE=http://127.0.0.1:27018 API=http://127.0.0.1:8001
mkdir -p "$WORK/home" "$WORK/ray"
for port in 6385 6390 8001 10001 27018; do
  ! listens $port 2>/dev/null || { echo "port $port is taken"; exit 1; }
done
export PATH="$NDIF/bin:$PATH" HF_HUB_OFFLINE=1 GRPC_ENABLE_FORK_SUPPORT=0 OMP_NUM_THREADS=1
# Some of Ray's ports are open on every interface: it answers those alone who know this word.
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
# Ray's own 15 leaves the workers nothing on a machine that does other work.
export RAY_worker_niceness=${RAY_worker_niceness:-0}
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN
export NDIF_REDIS_URL=redis://127.0.0.1:6390/ NDIF_RAY_ADDRESS=ray://127.0.0.1:10001
export NDIF_OBJECT_STORE_URL=$STORE NDIF_OBJECT_STORE_PUBLIC_URL=$STORE
export NDIF_OBJECT_STORE_ACCESS_KEY=minioadmin NDIF_OBJECT_STORE_SECRET_KEY=minioadmin
export NDIF_RAY_TEMP_DIR=$WORK/ray NDIF_HOME=$WORK/home GUNICORN_CMD_ARGS="--bind 127.0.0.1:8001"
export NDIF_API_PORT=8001 NDIF_API_WORKERS=1 NDIF_DEFAULT_DTYPE=float32 NDIF_SANDBOX_POOL_SIZE=1
export NDIF_DEFAULT_MODEL_ACTOR_CLASS=ndif.services.ray.sandbox.model.SandboxModelActor
export NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS=0

SERVICES=$(SITE "$NDIF/bin/python")/ndif/services
echo "==> redis, the stand-in for S3, Ray"
launch redis redis-server --port 6390 --save "" --bind 127.0.0.1
launch s3 moto_server -H 127.0.0.1 -p 27018
launch ray bash "$SERVICES/ray/start.sh"
until_true 60 listens 6390
until_true 60 listens 27018
until_true 240 listens 10001 # the API gives up where Ray is not there yet
echo "==> the API"
launch api bash "$SERVICES/api/start.sh"
until_true 240 curl -sf $API/status

"$DEV" -c "
from tests import tiny
tiny.hf_model().save_pretrained('$WORK/model')
tiny.processor().save_pretrained('$WORK/model')
from tests.families.test_families import lmm
for name in ('Gemma 3', 'InternVL', 'Qwen2.5-VL'):
    lmm(name).hf_model.save_pretrained(f'$WORK/zoo/{name}')
    # It is given encoded inputs: any processor will do, and some want torchvision for videos.
    tiny.processor().save_pretrained(f'$WORK/zoo/{name}')"
export VSINK_NDIF=$API VSINK_NDIF_STORE=$STORE/ndif-results VSINK_NDIF_MODEL=$WORK/model VSINK_NDIF_ZOO=$WORK/zoo
status=0
for mode in trusted sandboxed; do
  echo "==> $mode"
  [ $mode = trusted ] && export VSINK_NDIF_TRUSTED=1 || export VSINK_NDIF_TRUSTED=0
  timeout "${NDIF_TIMEOUT:-900}" "$DEV" -m pytest -q --tb=short -p no:cacheprovider $HERE/test_ndif.py \
    tests/remote/test_laws.py tests/remote/test_contexts.py tests/remote/test_jobs.py \
    tests/remote/test_faults.py "$@" \
    | tee "$WORK/$mode.txt" || { status=1; tail -n 30 "$WORK"/ray.log "$WORK"/api.log; }
  timeout "${NDIF_TIMEOUT:-900}" "$DEV" $HERE/log.py measure "$WORK/$mode.json" \
    || { status=1; echo "the calls of the toy could not be measured, or took too long"; }
done
if [ $status = 0 ] && [ $# = 0 ]; then
  "$DEV" $HERE/log.py page "$WORK" "$NDIF/bin/python" $SECONDS
  echo "==> docs/remote-ndif-log.md"
fi
exit $status
