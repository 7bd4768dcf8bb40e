{{- define "dapr_placement.peers" -}}
{{- $name := "dapr-placement-server" -}}
{{- range $i := until 3 -}}
{{- if $i }},{{ end -}}
{{ $name }}-{{ $i }}={{ $name }}-{{ $i }}.{{ $name }}.{{ $.Release.Namespace }}.svc{{ $.Values.global.dnsSuffix }}:{{ int64 $.Values.ports.raftRPCPort }}
{{- end -}}
{{- end -}}
