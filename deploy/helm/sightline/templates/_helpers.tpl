{{/* Written by hand: what only the chart has. The other templates are made from deploy/k8s. */}}

{{- define "sightline.chart" -}}
{{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* REGISTRY/REPOSITORY:TAG, or @DIGEST; of a list of the root and an image of values. */}}
{{- define "sightline.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- with $root.Values.images.registry | default $image.registry }}{{ . }}/{{ end }}
{{- $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end }}

{{/* The settings that all processes share; those of values win. */}}
{{- define "sightline.settings" -}}
{{- include "sightline.checks" . -}}
{{ toYaml (mustMergeOverwrite (include "sightline.generated.sightline-settings" . | fromYaml) .Values.settings) }}
{{- end }}

{{/* The device that a trainer worker asks for. */}}
{{- define "sightline.gpu" -}}
nvidia.com/{{ with .Values.gpu.mig }}mig-{{ . }}{{ else }}gpu{{ end }}
{{- end }}

{{/* Where the pods of a workload run; of a list of the root and the workload's key. */}}
{{- define "sightline.pod" -}}
{{- $root := index . 0 }}
{{- $of := index $root.Values (index . 1) }}
{{- $gpu := and (eq (index . 1) "trainerWorker") $root.Values.gpu.enabled }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with ternary (merge dict $of.nodeSelector $root.Values.gpu.nodeSelector) $of.nodeSelector $gpu }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if $gpu }}
{{- with $root.Values.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}
{{- with ternary (concat $of.tolerations $root.Values.gpu.tolerations) $of.tolerations $gpu }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The role of a process, as EKS reads it from the service account; of a list of the root and the process. */}}
{{- define "sightline.roleAnnotation" -}}
{{- $root := index . 0 }}
{{- with index $root.Values.s3.roles (index . 1) }}
{{- if eq $root.Values.s3.identity "eks" }}
annotations:
  eks.amazonaws.com/role-arn: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The same as the process itself reads it, elsewhere. */}}
{{- define "sightline.roleVariable" -}}
{{- $root := index . 0 }}
{{- with index $root.Values.s3.roles (index . 1) }}
{{- if eq $root.Values.s3.identity "web" }}
- name: AWS_ROLE_ARN
  value: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Values that contradict one another. */}}
{{- define "sightline.checks" -}}
{{- $values := .Values }}
{{- if not (or $values.tls.enabled (eq (toString $values.settings.SIGHTLINE_INSECURE) "true")) }}
{{- fail "without TLS nothing starts: set tls.enabled=true, or settings.SIGHTLINE_INSECURE=\"true\" where nobody else reaches the cluster" }}
{{- end }}
{{- if and $values.tls.enabled (eq (toString $values.settings.SIGHTLINE_INSECURE) "true") }}
{{- fail "set either tls.enabled=true or settings.SIGHTLINE_INSECURE=\"true\"" }}
{{- end }}
{{- if and $values.kueue.enabled (not $values.autoscaling.enabled) }}
{{- fail "kueue.enabled=true needs autoscaling.enabled=true: Kueue's queue holds jobs" }}
{{- end }}
{{- if and (ne $values.store.kind "existing") (ne $values.s3.identity "keys") }}
{{- fail (printf "store.kind=%s needs s3.identity=keys: the users that its job makes have keys" $values.store.kind) }}
{{- end }}
{{- if and (ne $values.s3.identity "keys") (not $values.s3.endpoint) }}
{{- fail "s3.identity needs s3.endpoint, such as s3.eu-central-1.amazonaws.com" }}
{{- end }}
{{- end }}
