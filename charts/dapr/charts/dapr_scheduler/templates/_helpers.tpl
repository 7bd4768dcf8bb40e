{{- define "dapr_scheduler.peers" -}}
{{- $name := "dapr-scheduler-server" -}}
{{- range $i := until 3 -}}
{{- if $i }},{{ end -}}
{{ $name }}-{{ $i }}=https://{{ $name }}-{{ $i }}.{{ $name }}.{{ $.Release.Namespace }}.svc{{ $.Values.global.dnsSuffix }}:{{ int64 $.Values.ports.etcdGRPCPeerPort }}
{{- end -}}
{{- end -}}

{{/* Claims of a StatefulSet do not change, so an upgrade keeps the size that is there. */}}
{{- define "dapr_scheduler.storageSize" -}}
{{- $size := .Values.cluster.storageSize -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace "dapr-scheduler-server" -}}
{{- range dig "spec" "volumeClaimTemplates" list $there -}}
{{- if eq .metadata.name "dapr-scheduler-data-dir" -}}
{{- $size = .spec.resources.requests.storage -}}
{{- end -}}
{{- end -}}
{{ include "dapr.text" $size }}
{{- end -}}
