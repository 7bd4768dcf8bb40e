{{/* Flags of the tokens that sentry signs, and of the server that publishes their keys. */}}
{{- define "dapr_sentry.tokens" -}}
{{- with .Values.jwt }}
{{- if .enabled }}
- --jwt-enabled=true
{{- with .keyFilename }}
- {{ printf "--jwt-key-filename=%s" . | quote }}
{{- end }}
{{- with .jwksFilename }}
- {{ printf "--jwks-filename=%s" . | quote }}
{{- end }}
{{- with .issuer }}
- {{ printf "--jwt-issuer=%s" . | quote }}
{{- end }}
{{- with .signingAlgorithm }}
- {{ printf "--jwt-signing-algorithm=%s" . | quote }}
{{- end }}
{{- with .keyID }}
- {{ printf "--jwt-key-id=%s" . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.oidc }}
{{- if .enabled }}
- --oidc-enabled=true
- --oidc-server-listen-address=0.0.0.0
{{- with .jwksURI }}
- {{ printf "--oidc-jwks-uri=%s" . | quote }}
{{- end }}
{{- with .pathPrefix }}
- {{ printf "--oidc-path-prefix=%s" . | quote }}
{{- end }}
{{- with .allowedHosts }}
- {{ printf "--oidc-allowed-hosts=%s" (join "," .) | quote }}
{{- end }}
{{- with .tls.certFile }}
- {{ printf "--oidc-server-tls-cert-file=%s" . | quote }}
{{- end }}
{{- with .tls.keyFile }}
- {{ printf "--oidc-server-tls-key-file=%s" . | quote }}
{{- end }}
{{- if .tls.enabled }}
- --oidc-server-tls-enabled=true
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
