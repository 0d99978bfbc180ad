"""What of the manifests depends on values of the Helm chart, and what the chart adds to them, for tools/chart.py."""

from __future__ import annotations

# Components in the order that they require, and when the chart has what they add. `gpu-mig`, `gpu-runtime-class`,
# `priorities` and `pull-secret` are missing: templates/_helpers.tpl has a value for each.
CONDITIONS = {
    "operator": ".Values.operator.enabled",
    "store-users": '(ne .Values.store.kind "existing")',
    "store-seaweedfs": '(eq .Values.store.kind "seaweedfs")',
    "store-versitygw": '(eq .Values.store.kind "versitygw")',
    "nats-single": "(eq (int .Values.nats.replicas) 1)",
    "tls": ".Values.tls.enabled",
    "certificates": "(and .Values.tls.enabled .Values.tls.certManager)",
    "signing": ".Values.signing.enabled",
    "predictor-torch": ".Values.predictor.torch",
    "gpu": ".Values.gpu.enabled",
    "workload-identity": '(ne .Values.s3.identity "keys")',
    "web-identity": '(eq .Values.s3.identity "web")',
    "openshift": ".Values.openshift",
    "autoscaling": ".Values.autoscaling.enabled",
    "monitoring": ".Values.monitoring.enabled",
    "network-policies": ".Values.networkPolicies.enabled",
    "pod-identity": '(eq .Values.s3.identity "eks")',
    "kueue": ".Values.kueue.enabled",
}
NEEDS = {
    "store-seaweedfs": "store-users",
    "store-versitygw": "store-users",
    "certificates": "tls",
    "web-identity": "workload-identity",
    "pod-identity": "network-policies",
    "kueue": "autoscaling",
}
# Components with pods of their own, and those that change them.
CHANGED_BY = {
    "operator": ("openshift",),
    "store-users": ("openshift",),
    "store-seaweedfs": ("openshift",),
    "store-versitygw": ("openshift",),
    "autoscaling": ("tls", "signing", "gpu", "workload-identity", "web-identity", "openshift"),
}
WITH_STORE = ("dataset-api", "dataset-worker", "trainer-api", "trainer-worker", "predictor", "predictor-worker")

# A path, and the text in place of its value; the first that matches counts. <key> is the resource's name as a key of
# values.yaml, <item> the path's end, <value> the value, <named> the value as such a key.
TEXTS = {
    "*/app.kubernetes.io/managed-by": "{{ .Release.Service }}",
    "*/annotations/checksum/settings": '{{ include "sightline.settings" . | sha256sum }}',
    "*/annotations/checksum/nats-config": '{{ include "sightline.generated.nats-config" . | sha256sum }}',
    "*/annotations/checksum/seaweedfs": '{{ include "sightline.generated.seaweedfs" . | sha256sum }}',
    "Job/store-users/metadata/name": 'store-users-{{ include "sightline.generated.store-users" . '
    '| printf "%d %s" .Release.Revision | sha256sum | trunc 10 }}',
    "ConfigMap/seaweedfs/*/MASTERS": '{{ ternary "seaweedfs-0.seaweedfs:9333" "<value>" '
    "(eq (int .Values.seaweedfs.replicas) 1) }}",
    "ConfigMap/seaweedfs/*/REPLICATION": '{{ ternary "000" "<value>" (eq (int .Values.seaweedfs.replicas) 1) '
    "| quote }}",
    "StatefulSet/object-store/spec/replicas": "<value>",
    "Deployment/*/spec/replicas": "{{ .Values.<key>.replicas }}",
    "StatefulSet/*/spec/replicas": "{{ .Values.<key>.replicas }}",
    "*/containers/*/limits/nvidia.com/gpu": "<value>",
    "*/containers/*/requests/ephemeral-storage": '{{ index .Values.<key>.resources.requests "<item>" }}',
    "*/containers/*/limits/ephemeral-storage": '{{ index .Values.<key>.resources.limits "<item>" }}',
    "*/containers/*/requests/*": "{{ .Values.<key>.resources.requests.<item> | quote }}",
    "*/containers/*/limits/*": "{{ .Values.<key>.resources.limits.<item> | quote }}",
    "*/image": '{{ include "sightline.image" (list . .Values.images.<named>) }}',
    "*/imagePullPolicy": "{{ .Values.images.pullPolicy }}",
    "Issuer/sightline/spec/ca/secretName": "<value>",
    "Certificate/sightline-ca/spec/secretName": "<value>",
    "*/secretName": "{{ .Values.secrets.<named> }}",
    "*/secretKeyRef/name": "{{ .Values.secrets.<named> }}",
    "StatefulSet/object-store/*/users/*/requests/storage": "<value>",
    "StatefulSet/object-store/*/data/*/requests/storage": '{{ .Values.<key>.storage | default "<value>" }}',
    "*/volumeClaimTemplates/*/requests/storage": "{{ .Values.<key>.storage }}",
    "HorizontalPodAutoscaler/*/spec/minReplicas": "{{ .Values.autoscaling.<key>.min }}",
    "HorizontalPodAutoscaler/*/spec/maxReplicas": "{{ .Values.autoscaling.<key>.max }}",
    "ScaledJob/*/spec/minReplicaCount": "{{ .Values.autoscaling.<key>.min }}",
    "ScaledJob/*/spec/maxReplicaCount": "{{ .Values.autoscaling.<key>.max }}",
    "ConfigMap/sightline-settings/*/SIGHTLINE_S3_ENDPOINT": "{{ .Values.s3.endpoint | quote }}",
    "ConfigMap/sightline-settings/*/SIGHTLINE_S3_REGION": "{{ .Values.s3.region | quote }}",
    "Deployment/operator/*/SIGHTLINE_OPERATOR_PROJECT/value": "{{ .Values.operator.project | quote }}",
    "*/SIGHTLINE_MODEL_CACHE_BYTES/value": "{{ int64 .Values.<key>.modelCacheBytes | quote }}",
    "StatefulSet/nats/*/GOMEMLIMIT/value": "{{ .Values.nats.goMemoryLimit }}",
    "*/serviceAccountToken/audience": "{{ .Values.s3.audience }}",
    "NetworkPolicy/nats/*/namespaceSelector/matchLabels/*": "{{ .Values.networkPolicies.keda }}",
    "NetworkPolicy/metrics/*/namespaceSelector/matchLabels/*": "{{ .Values.networkPolicies.prometheus }}",
    "NetworkPolicy/traces/*/namespaceSelector/matchLabels/*": "{{ .Values.networkPolicies.traces }}",
}
# The same for maps, lists and their items.
BLOCKS = {
    "PrometheusRule/sightline/spec": '{{- .Files.Get "files/rules.yaml" | nindent <indent> }}',
    "ConfigMap/sightline-dashboards/data": """\
sightline.json: |
  {{- .Files.Get "files/sightline.json" | nindent 4 }}""",
    "ConfigMap/sightline-settings/data": '{{- include "sightline.settings" . | nindent <indent> }}',
    "ConfigMap/nats-config/data": '{{- include "sightline.generated.nats-config" . | nindent <indent> }}',
    "ConfigMap/seaweedfs/data": '{{- include "sightline.generated.seaweedfs" . | nindent <indent> }}',
    "Job/store-users/spec": '{{- include "sightline.generated.store-users" . | nindent <indent> }}',
    "ClusterQueue/*/coveredResources": """\
{{- range $resource, $_ := .Values.kueue.quotas }}
- {{ $resource }}
{{- end }}""",
    "ClusterQueue/*/flavors/*/resources": """\
{{- range $resource, $quota := .Values.kueue.quotas }}
- name: {{ $resource }}
  nominalQuota: {{ $quota }}
{{- end }}""",
    "Deployment/operator/*/env/SIGHTLINE_OPERATOR_NAMESPACES": """\
name: SIGHTLINE_OPERATOR_NAMESPACES
{{- with .Values.operator.namespaces }}
value: {{ join "," . }}
{{- else }}
valueFrom:
  fieldRef:
    fieldPath: metadata.namespace
{{- end }}""",
}
# What has a name, because a pod or a Job's name has its digest.
DEFINED = {
    "ConfigMap/sightline-settings": "data",
    "ConfigMap/nats-config": "data",
    "ConfigMap/seaweedfs": "data",
    "Job/store-users": "spec",
}
KEYS = {"nvidia.com/gpu": '{{ include "sightline.gpu" . }}'}
# What the chart adds to a map or a list.
POD = """\
{{- with include "sightline.pod" (list . "<key>") }}
{{- . | nindent <indent> }}
{{- end }}"""
MONITORING_LABELS = """\
{{- with .Values.monitoring.labels }}
{{- toYaml . | nindent <indent> }}
{{- end }}"""
ADDED = {
    "?*/*/template/spec": POD,
    "PodMonitor/*/metadata/labels": MONITORING_LABELS,
    "ServiceMonitor/*/metadata/labels": MONITORING_LABELS,
    "PrometheusRule/*/metadata/labels": MONITORING_LABELS,
    "*/volumeClaimTemplates/*/spec": """\
{{- with .Values.<key>.storageClassName }}
storageClassName: {{ . }}
{{- end }}""",
    **{
        f"ServiceAccount/sightline-{one}/metadata": f"""\
{{{{- include "sightline.roleAnnotation" (list . "{one}") | nindent <indent> }}}}"""
        for one in WITH_STORE
    },
    **{
        f"*/containers/{one}/env": """\
{{- include "sightline.roleVariable" (list . "<name>") | nindent <indent> }}"""
        for one in WITH_STORE
    },
}
