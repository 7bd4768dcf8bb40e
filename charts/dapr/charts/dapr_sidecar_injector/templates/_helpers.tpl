{{/* The user and group of sidecars. Zero is none: a sidecar that may be root is what its image says. */}}
{{- define "dapr_sidecar_injector.user" -}}
{{- if not (kindIs "invalid" .Values.sidecarRunAsUser) }}
{{- $user := int64 .Values.sidecarRunAsUser }}
{{- if and .Values.sidecarRunAsNonRoot (le $user 0) }}
{{- fail (printf "dapr_sidecar_injector.sidecarRunAsUser: %d is no user a sidecar may run as while sidecarRunAsNonRoot is true" $user) }}
{{- end }}
{{- if and (not .Values.sidecarRunAsNonRoot) (ne $user 0) }}
{{- fail (printf "dapr_sidecar_injector.sidecarRunAsUser: %d is not root, so leave sidecarRunAsNonRoot true" $user) }}
{{- end }}
{{- if gt $user 0 }}
- name: SIDECAR_RUN_AS_USER
  value: {{ $user | quote }}
{{- end }}
{{- end }}
{{- with int64 .Values.sidecarRunAsGroup }}
- name: SIDECAR_RUN_AS_GROUP
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Whether pods that lack their sidecar are refused: as the value says, else with high availability. */}}
{{- define "dapr_sidecar_injector.sidecarRequired" -}}
{{- $known := semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- if kindIs "invalid" .Values.sidecarRequired -}}
{{- if and .Values.global.ha.enabled $known }}true{{ end -}}
{{- else if .Values.sidecarRequired -}}
{{- if not $known }}{{ fail "dapr_sidecar_injector.sidecarRequired: the API server knows no ValidatingAdmissionPolicy; 1.30 and newer ones do" }}{{ end -}}
true
{{- end -}}
{{- end -}}
