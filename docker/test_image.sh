#!/usr/bin/env bash
# Builds the image and checks what it promises: it answers as healthy, runs as uid 10001 on a
# read-only root, ends cleanly on SIGTERM, and a new container on the same volume has the sessions.
#
#   docker/test_image.sh                        with Docker, or else Podman and Buildah
#   BASE_IMAGE=localhost/base docker/test_image.sh
#   BUILD_FLAGS="--isolation chroot" ...        more flags for the build
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-gradwire:test}
name=gradwire-test-$$
port=${PORT:-18321}
url=http://127.0.0.1:$port
read -ra flags <<< "${BUILD_FLAGS:-}"
[ -z "${BASE_IMAGE:-}" ] || flags+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")

if docker info > /dev/null 2>&1; then
  engine=docker
  docker build --quiet "${flags[@]}" -f docker/Dockerfile -t "$image" .
elif command -v podman > /dev/null && command -v buildah > /dev/null; then
  engine=podman
  # Only the docker format keeps the health check.
  buildah bud --quiet --format docker --layers "${flags[@]}" -f docker/Dockerfile -t "$image" .
else
  echo "Docker, or Podman with Buildah, is needed: see docker/README.md." >&2
  exit 1
fi

finish() {
  "$engine" rm --force "$name" > /dev/null 2>&1 || true
  "$engine" volume rm --force "$name" > /dev/null 2>&1 || true
}
trap finish EXIT

start() {
  "$engine" run --detach --name "$name" --network host --read-only --tmpfs /tmp \
    --cap-drop all --security-opt no-new-privileges --env "GRADWIRE_PORT=$port" --env GRADWIRE_KEYS=off \
    --volume "$name:/data" "$image" > /dev/null
  for _ in $(seq 100); do
    curl --silent --fail "$url/healthz" > /dev/null && return
    sleep 0.2
  done
  "$engine" logs "$name" >&2
  echo "the container does not become healthy" >&2
  exit 1
}

# Docker runs the check by itself; Podman leaves that to systemd, which may be absent.
healthy() {
  if [ "$engine" = podman ]; then
    podman healthcheck run "$name" > /dev/null
    return
  fi
  for _ in $(seq 60); do
    [ "$(docker inspect "$name" --format '{{.State.Health.Status}}')" = healthy ] && return
    sleep 0.5
  done
  return 1
}

stop() {
  "$engine" stop --time 20 "$name" > /dev/null
  code=$("$engine" inspect "$name" --format '{{.State.ExitCode}}')
  [ "$code" = 0 ] || { echo "the container ended with $code" >&2; exit 1; }
  "$engine" rm "$name" > /dev/null
}

send() { curl --silent --show-error --fail --header 'Content-Type: application/json' --data "$2" "$url$1"; }

start
healthy || { echo "the health check of the image fails" >&2; exit 1; }
[ "$("$engine" exec "$name" id -u)" = 10001 ] || { echo "it does not run as 10001" >&2; exit 1; }
send /v1/sessions '{"name": "kept", "inputs": [{"name": "x", "shape": [2]}]}' > /dev/null
send /v1/sessions/kept/nodes '{"nodes": [{"op": "square", "inputs": ["x"]}, {"op": "sum", "inputs": [1]}]}' > /dev/null
stop

start
answer=$(send /v1/sessions/kept/vjp '{"inputs": {"x": [3, 4]}}')
[[ $answer == *'"data":[6.0,8.0]'* ]] || { echo "the session is not as it was: $answer" >&2; exit 1; }
stop

size=$("$engine" inspect "$image" --format '{{.Size}}')
echo "The image works ($engine, $((size / 1000000)) MB)."
