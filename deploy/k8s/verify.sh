#!/usr/bin/env bash
# Proves an overlay or a Helm release on a cluster: applies it, registers, trains and predicts, kills a pod of each kind while it trains,
# drains a node if asked, reads the alerts, and prints a table. Exits with 1 if anything failed.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/k8s/verify.sh --overlay DIR | --chart DIR --coco FILE --image FILE [options]

  --overlay DIR      the kustomization to apply, such as deploy/k8s/overlays/local
  --chart DIR        or the chart to install as the release `sightline`, such as deploy/helm/sightline, which is then also
                     upgraded and rolled back
  --values FILE      the chart's values
  --coco FILE        a COCO file of some 50 images or more, whose images lie beside it
  --image FILE       an image to predict
  --kind KIND        of the annotations: classification (default) or detection
  --namespace NAME   where the overlay puts everything; default: sightline
  --context NAME     of kubectl; default: the current one
  --budget TIME      of the training; default: 3m
  --drain NODE       also drain this node during a second training, and uncordon it afterwards
  --alerts URL       of a Prometheus that has the rules, such as http://localhost:9090
  --timeout TIME     for each rollout; default: 10m
  --no-apply         the overlay runs already; read and test it
  --no-kill          kill no pods
  --keep             leave the dataset and the models that it makes

It needs kubectl, curl, python3 and sightline, helm with --chart, and the namespace with its secrets (docs/kubernetes.md). If
the services have TLS, set SIGHTLINE_CA and SIGHTLINE_TOKEN, of a caller with the role admin. It kills pods: use a cluster that may fail.
TEXT
}

overlay="" chart="" values="" coco="" image="" kind=classification namespace=sightline context="" budget=3m drain="" alerts="" timeout=10m
apply=yes kills=yes keep=""
run="verify-$(date +%s)"
log=$(mktemp)
rows=()        # NAME|OUTCOME|SECONDS|DETAIL
forwards=()    # process ids
failed=""      # the step without which the rest means nothing
drained=""     # the node to uncordon

parse() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --no-apply) apply="" ;;
      --no-kill) kills="" ;;
      --keep) keep=yes ;;
      --help) usage && exit 0 ;;
      --overlay | --chart | --values | --coco | --image | --kind | --namespace | --context | --budget | --drain | --alerts | --timeout)
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2 && exit 2; }
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      *) echo "$1 is not an option; see --help" >&2 && exit 2 ;;
    esac
    shift
  done
  local name
  [ -z "$overlay" ] || [ -z "$chart" ] || { echo "--overlay and --chart exclude each other; see --help" >&2 && exit 2; }
  for name in "${chart:+chart}" coco image; do
    name=${name:-overlay}
    [ -n "${!name}" ] || { echo "--$name is missing; see --help" >&2 && exit 2; }
    [ -e "${!name}" ] || { echo "--$name: ${!name} does not exist" >&2 && exit 2; }
  done
}

k() { kubectl ${context:+--context "$context"} --namespace "$namespace" "$@"; }

h() { helm ${context:+--kube-context "$context"} --namespace "$namespace" "$@"; }

release() { h upgrade --install sightline "$chart" ${values:+--values "$values"} "$@"; }

# The manifests, and how the cluster gets them.
made() {
  if [ -n "$chart" ]; then h template sightline "$chart" ${values:+--values "$values"}; else kubectl kustomize "$overlay"; fi
}

sent() {
  if [ -n "$chart" ]; then release "$@"; else k apply "$@" -k "$overlay"; fi
}

# step NAME [required] FUNCTION ARGUMENTS: runs it and notes how it ended; its last line is the detail.
step() {
  local name=$1 required="" began=$SECONDS outcome=ok status
  shift
  if [ "$1" = required ]; then required=yes && shift; fi
  if [ -n "$failed" ]; then
    rows+=("$name|skipped|0|after $failed failed")
    return
  fi
  echo "== $name" >&2
  "$@" >"$log" 2>&1
  status=$?
  sed 's/^/   /' "$log" >&2
  if [ $status -eq 77 ]; then
    outcome=skipped
  elif [ $status -ne 0 ]; then
    outcome=FAILED
    [ -z "$required" ] || failed=$name
  fi
  rows+=("$name|$outcome|$((SECONDS - began))|$(tail -n 1 "$log")")
}

skip() { echo "$1" && return 77; }

tools() {
  local missing=() name version
  for name in kubectl curl python3 sightline ${chart:+helm}; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] || { echo "not installed: ${missing[*]}" && return 1; }
  version=$(k version 2>&1) || { echo "no cluster: $(tail -n 1 <<<"$version")" && return 1; }
  version=$(sed -n 's/^Server Version: v//p' <<<"$version")
  [ "$(printf '1.30\n%s\n' "$version" | sort -V | head -n 1)" = 1.30 ] || { echo "Kubernetes $version is older than 1.30" && return 1; }
  echo "Kubernetes $version"
}

# The names of secrets that pods need, and of those that cert-manager makes.
secrets_in() {
  sed -n '/optional: true/{n;b}; s/.*secretName: //p' | sort -u
}

issued_in() {
  sed -n '/^kind: Certificate$/,/^---$/s/.*secretName: //p' | sort -u
}

# What the head of each manifest says that the cluster must have.
needs() {
  local manifests secret missing=() named
  manifests=$(made) || { tail -n 1 <<<"$manifests" && return 1; }
  k get namespace "$namespace" >/dev/null || { echo "create the namespace $namespace" && return 1; }
  mapfile -t named < <(comm -23 <(secrets_in <<<"$manifests") <(issued_in <<<"$manifests"))
  for secret in "${named[@]}"; do
    k get secret "$secret" >/dev/null || missing+=("$secret")
  done
  [ ${#missing[@]} -eq 0 ] || { echo "create the secrets: ${missing[*]}" && return 1; }
  k get storageclass --output name | grep -q . || { echo "there is no storage class for the volumes" && return 1; }
  sent --dry-run=server >/dev/null || { echo "the cluster refuses a manifest, or lacks its operator" && return 1; }
  echo "namespace, secrets, storage class; the cluster accepts every manifest"
}

applied() {
  [ -n "$apply" ] || { skip "--no-apply"; return; }
  sent && rolled_out
}

# A release of other settings, and back: each time every pod is replaced, and the services answer afterwards.
upgraded() {
  [ -n "$chart" ] && [ -n "$apply" ] || { skip "no --chart to upgrade"; return; }
  release --set settings.SIGHTLINE_LOG_LEVEL=DEBUG && rolled_out
}

rolled_back() {
  [ -n "$chart" ] && [ -n "$apply" ] || { skip "no --chart to roll back"; return; }
  h rollback sightline && rolled_out
}

workloads() { k get deployment,statefulset --selector app.kubernetes.io/part-of=sightline --output name; }

rolled_out() {
  local one all
  all=$(workloads) && [ -n "$all" ] || { echo "no workload of Sightline in the namespace $namespace" && return 1; }
  for one in $all; do
    k rollout status "$one" --timeout "$timeout" || { echo "$one is not ready: $(waiting "$one")" && return 1; }
  done
  echo "$(wc -w <<<"$all") workloads are ready"
}

# Why the pods of a workload are not ready.
waiting() {
  k get pod --selector "app.kubernetes.io/name=${1##*/}" \
    --output jsonpath='{range .items[*]}{.metadata.name}: {.status.phase} {.status.containerStatuses[*].state.waiting.reason} {.status.conditions[?(@.type=="PodScheduled")].message}; {end}'
}

pod_of() { k get pod --selector "app.kubernetes.io/name=$1" --field-selector status.phase=Running --output name | head -n 1; }

doctor() {
  local pod
  pod=$(pod_of trainer-worker)
  [ -n "$pod" ] || { skip "no trainer worker runs while there is no work"; return; }
  k exec "${pod#pod/}" -- python -m services.infra.doctor --inside
}

# Keeps a port-forward open: it ends with the pod that it leads to.
forward() {
  (
    trap 'kill "$child" 2>/dev/null; wait "$child"; exit' TERM
    while :; do
      # Not by the function: the process to end would be the shell that runs it.
      kubectl ${context:+--context "$context"} --namespace "$namespace" port-forward "service/$1" "$2" >/dev/null 2>&1 &
      child=$!
      wait "$child"
      sleep 1
    done
  ) &
  forwards+=("$!")
}

# retried SECONDS COMMAND: until it succeeds.
retried() {
  local tries=$1
  shift
  until "$@"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return 1
    sleep 1
  done
}

reached() {
  retried 60 sightline datasets list >/dev/null || { echo "the services cannot be called; see the port-forwards" && return 1; }
  echo "the services answer"
}

registered() { sightline datasets create "$run" --kind "$kind" --coco "$coco" --wait; }

begun() { sightline models train "$1" --dataset "$run" --budget "$budget" --json >/dev/null && echo "training $1"; }

trained() { sightline models watch "$1" && echo "$1 is trained"; }

predicted() { retried 30 sightline predict "$1" "$image" --json >/dev/null && echo "$1 predicts"; }

# Kills one pod of each kind, the workers and NATS included, without a grace period.
killed() {
  local one pod said count=0
  [ -n "$kills" ] || { skip "--no-kill"; return; }
  for one in $({ workloads | sed 's|.*/||'; echo trainer-worker; } | sort -u); do # jobs' workers are no workload
    pod=$(pod_of "$one")
    [ -n "$pod" ] || continue
    k delete "$pod" --grace-period 0 --force --wait=false || return 1
    count=$((count + 1))
    said=$(rolled_out) || { echo "after $pod was killed: $(tail -n 1 <<<"$said")" && return 1; }
  done
  echo "$count pods were killed, and replaced"
}

drained() {
  [ -n "$drain" ] || { skip "no --drain NODE"; return; }
  local said
  drained=$drain
  kubectl ${context:+--context "$context"} drain "$drain" --ignore-daemonsets --delete-emptydir-data --timeout "$timeout" || return 1
  said=$(rolled_out) || { echo "after $drain was drained: $(tail -n 1 <<<"$said")" && return 1; }
  echo "$drain is drained, and everything runs elsewhere"
}

uncordon() {
  [ -z "$drained" ] || kubectl ${context:+--context "$context"} uncordon "$drained" >&2
  drained=""
}

quiet() {
  local found
  [ -n "$alerts" ] || { skip "no --alerts URL"; return; }
  found=$(curl --fail --silent --show-error --max-time 20 "${alerts%/}/api/v1/alerts") || return 1
  python3 -c '
import json, sys
alerts = [one["labels"] for one in json.load(sys.stdin)["data"]["alerts"] if one["state"] == "firing"]
ours = sorted({(one.get("severity", ""), one["alertname"]) for one in alerts if one["alertname"].startswith("Sightline")})
print("firing: " + (", ".join(f"{name} ({severity})" for severity, name in ours) or "none"))
raise SystemExit(any(severity == "critical" for severity, _ in ours))' <<<"$found"
}

cleared() {
  [ -z "$keep" ] || { skip "--keep"; return; }
  local name
  for name in "$run" "$run-drain"; do
    sightline models show "$name" --json >/dev/null 2>&1 && sightline models delete "$name"
  done
  sightline datasets delete "$run" && echo "removed what was made"
}

finish() {
  uncordon
  local pid
  for pid in "${forwards[@]}"; do
    kill "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
  rm -f "$log"
}

table() {
  local row name outcome seconds detail
  printf '\n%-10s %-8s %7s  %s\n' STEP OUTCOME SECONDS DETAIL
  for row in "${rows[@]}"; do
    IFS='|' read -r name outcome seconds detail <<<"$row"
    printf '%-10s %-8s %7s  %s\n' "$name" "$outcome" "$seconds" "$detail"
  done
  [[ "${rows[*]}" != *"|FAILED|"* ]]
}

main() {
  parse "$@"
  trap finish EXIT
  step tools required tools
  step needs required needs
  step apply required applied
  step upgrade upgraded
  step rollback rolled_back
  step doctor doctor
  if [ -z "$failed" ]; then
    forward dataset 50051
    forward trainer 50052
    forward predictor 50053
  fi
  step reach required reached
  step register required registered
  step train required begun "$run"
  step kill killed
  step trained required trained "$run"
  step predict predicted "$run"
  if [ -n "$drain" ]; then step again begun "$run-drain"; fi
  step drain drained
  uncordon
  if [ -n "$drain" ]; then
    step resumed trained "$run-drain"
    step predict2 predicted "$run"
  fi
  step alerts quiet
  step clear cleared
  table
}

main "$@"
