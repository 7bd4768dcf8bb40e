{{/*
What several objects have in common. Templates of one component take it as a dict:
  root         the context of the sub-chart
  component    its key in global.extraVolumes and the like, and the value of dapr.io/control-plane
  app          the name of its workload
  annotations  the user's
*/}}

{{/* An image: a name with a slash is taken as it stands. */}}
{{- define "dapr.image" -}}
{{- if contains "/" .name -}}
{{ .name }}
{{- else -}}
{{ .global.registry }}/{{ .name }}:{{ .global.tag }}
{{- end -}}
{{- end -}}

{{/*
A value as text; none is an empty one. Templates print the number 1000000 as 1e+06, for numbers of a values file are
floating point.
*/}}
{{- define "dapr.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else if not (kindIs "invalid" .) -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* A map of texts, as labels and annotations are: the API server refuses what is a number or a boolean to YAML. */}}
{{- define "dapr.texts" -}}
{{- $texts := dict -}}
{{- range $key, $value := . -}}
{{- $_ := set $texts $key (include "dapr.text" $value) -}}
{{- end -}}
{{- toYaml $texts -}}
{{- end -}}

{{/* Labels of every object. One that global.k8sLabels has, too, is not written twice. */}}
{{- define "dapr.labels" -}}
{{- $all := dict "app.kubernetes.io/component" .Values.component -}}
{{- range $key, $value := .Values.global.k8sLabels -}}
{{- $_ := set $all $key (tpl (include "dapr.text" $value) $) -}}
{{- end -}}
{{- include "dapr.texts" $all -}}
{{- end -}}

{{/* Labels of a workload and of what belongs to it. `app` alone is what selectors look for. */}}
{{- define "dapr.workloadLabels" -}}
{{- $all := fromYaml (include "dapr.labels" .root) -}}
{{- $_ := set $all "app" .app -}}
{{- include "dapr.texts" $all -}}
{{- end -}}

{{/* Labels of pods: the user's, too. Those of a Job have no `app`, or a Service would lead to them. */}}
{{- define "dapr.podLabels" -}}
{{- $all := fromYaml (include "dapr.labels" .root) -}}
{{- range $key, $value := .root.Values.global.labels -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- $_ := unset $all "app" -}}
{{- with .app -}}
{{- $_ := set $all "app" . -}}
{{- end -}}
{{- include "dapr.texts" $all -}}
{{- end -}}

{{/*
Annotations, as a field where there are any: the user's, and those that Prometheus looks for on pods and on what is
`scraped`, unless the user has them, too. Sentry knows the pods of the control plane by one that nobody changes.
*/}}
{{- define "dapr.annotations" -}}
{{- $all := dict -}}
{{- if and (or .component .scraped) .root.Values.global.prometheus.enabled -}}
{{- $port := int64 .root.Values.global.prometheus.port -}}
{{- $all = dict "prometheus.io/scrape" "true" "prometheus.io/port" $port "prometheus.io/path" "/" -}}
{{- end -}}
{{- range $key, $value := .annotations -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- with .component -}}
{{- $_ := set $all "dapr.io/control-plane" . -}}
{{- end -}}
{{- with $all -}}
annotations:
  {{- include "dapr.texts" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "dapr.logLevel" -}}
- --log-level
- {{ .Values.logLevel | quote }}
{{- end -}}

{{- define "dapr.logAndMetrics" -}}
{{- if .Values.global.logAsJson -}}
- --log-as-json
{{ end -}}
{{- include "dapr.metrics" . -}}
{{- end -}}

{{- define "dapr.metrics" -}}
{{- if .Values.global.prometheus.enabled -}}
- --enable-metrics
- --metrics-port
- {{ int64 .Values.global.prometheus.port | quote }}
{{- else -}}
- --enable-metrics=false
{{- end -}}
{{- end -}}

{{- define "dapr.metricsPort" -}}
{{- if .Values.global.prometheus.enabled -}}
- name: metrics
  containerPort: {{ int64 .Values.global.prometheus.port }}
  protocol: TCP
{{- end }}
{{- end -}}

{{- define "dapr.metricsServicePort" -}}
{{- if .Values.global.prometheus.enabled -}}
- name: metrics
  port: {{ int64 .Values.global.prometheus.port }}
  targetPort: {{ int64 .Values.global.prometheus.port }}
  protocol: TCP
{{- end }}
{{- end -}}

{{- define "dapr.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ int64 .port }}
  initialDelaySeconds: {{ int64 .root.Values.livenessProbe.initialDelaySeconds }}
  periodSeconds: {{ int64 .root.Values.livenessProbe.periodSeconds }}
  failureThreshold: {{ int64 .root.Values.livenessProbe.failureThreshold }}
readinessProbe:
  httpGet:
    path: /healthz
    port: {{ int64 .port }}
  initialDelaySeconds: {{ int64 .root.Values.readinessProbe.initialDelaySeconds }}
  periodSeconds: {{ int64 .root.Values.readinessProbe.periodSeconds }}
  failureThreshold: {{ int64 .root.Values.readinessProbe.failureThreshold }}
{{- end -}}

{{/* What a container may do. `runAsUser` is for images whose user is a name, which no node can tell from root. */}}
{{- define "dapr.containerSecurity" -}}
securityContext:
  {{- if eq (toString .runAsNonRoot) "true" }}
  runAsNonRoot: true
  {{- else if .elseUser }}
  runAsUser: {{ .elseUser }}
  {{- else }}
  runAsNonRoot: false
  {{- end }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  {{- with .root.Values.global.seccompProfile }}
  seccompProfile:
    type: {{ . }}
  {{- end }}
{{- end -}}


{{/*
What holds for a whole pod: what Pod Security `restricted` wants of it, where it may run, with which priority, and who may
pull its images.
*/}}
{{- define "dapr.pod" -}}
securityContext:
  {{- if not (has .fsGroup (list nil "")) }}
  fsGroup: {{ int64 .fsGroup }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .root }}
{{- with .Values.global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.global.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.global.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- if kindIs "string" . }}
  - name: {{ . | quote }}
  {{- else }}
  {{- range . }}
  {{- if kindIs "string" . }}
  - name: {{ . | quote }}
  {{- else }}
  - name: {{ .name | quote }}
  {{- end }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.nodeAffinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: kubernetes.io/os
            operator: In
            values: [{{ .Values.global.daprControlPlaneOs }}]
          {{- with .Values.global.daprControlPlaneArch }}
          - key: kubernetes.io/arch
            operator: In
            values: [{{ . }}]
          {{- end }}
{{- end -}}

{{/* Replicas in different zones: `policy` says whether they have to be. */}}
{{- define "dapr.antiAffinity" -}}
{{- $preferred := "preferredDuringSchedulingIgnoredDuringExecution" -}}
{{- $required := "requiredDuringSchedulingIgnoredDuringExecution" -}}
podAntiAffinity:
  {{- if eq .policy $preferred }}
  {{ $preferred }}:
    - weight: 100
      podAffinityTerm:
        labelSelector:
          matchExpressions:
            - key: app
              operator: In
              values: [{{ .app }}]
        topologyKey: {{ .root.Values.global.ha.topologyKey }}
  {{- else if eq .policy $required }}
  {{ $required }}:
    - labelSelector:
        matchExpressions:
          - key: app
            operator: In
            values: [{{ .app }}]
      topologyKey: {{ .root.Values.global.ha.topologyKey }}
  {{- else }}
  {{- fail (printf "global.ha.podAntiAffinityPolicy: %q is neither %s nor %s" .policy $preferred $required) }}
  {{- end }}
{{- end -}}

{{/* The namespace of the control plane as its pods see it, then the user's variables. */}}
{{- define "dapr.namespaceVariable" -}}
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{- define "dapr.extraVariables" -}}
{{- range $name, $value := .Values.extraEnvVars }}
- name: {{ $name | quote }}
  value: {{ include "dapr.text" $value | quote }}
{{- end }}
{{- end -}}

{{/*
The trust bundle and the token that sentry takes. The pods of a new install start before sentry has made the bundle; until
the kubelet mounts it, they read it from the API server (dapr_rbac/templates/trust-bundle.yaml). A mount that waited for it
would be tried again ever more seldom.
*/}}
{{- define "dapr.identityVolumes" -}}
- name: dapr-trust-bundle
  configMap:
    name: dapr-trust-bundle
    optional: true
    items:
      - key: ca.crt
        path: ca.crt
{{- if .Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 600
          audience: {{ printf "spiffe://%s/ns/%s/dapr-sentry" .Values.global.mtls.controlPlaneTrustDomain .Release.Namespace | quote }}
{{- end }}
{{- end -}}

{{- define "dapr.identityMounts" -}}
- name: dapr-trust-bundle
  mountPath: /var/run/secrets/dapr.io/tls
  readOnly: true
{{- if .Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  mountPath: /var/run/secrets/dapr.io/sentrytoken
  readOnly: true
{{- end }}
{{- end -}}

{{- define "dapr.sentryAddress" -}}
{{ .Values.global.mtls.sentryAddress | default (printf "dapr-sentry.%s.svc.cluster.local:443" .Release.Namespace) }}
{{- end -}}

{{/* Where a service of actors or reminders is found; `field` names the value it comes from. */}}
{{- define "dapr.serviceAddress" -}}
{{- if eq .name "placement" -}}
dapr-placement-server:50005
{{- else if eq .name "scheduler" -}}
dapr-scheduler-server:50006
{{- else -}}
{{- fail (printf "%s: %q is no service that is known here; placement and scheduler are" .field .name) -}}
{{- end -}}
{{- end -}}

{{- define "dapr.hasPlacement" -}}
{{- if and .Values.global.actors.enabled (eq .Values.global.actors.serviceName "placement") }}true{{ end -}}
{{- end -}}

{{/* How many pods may be away at a time. The selector is that of the workload: it holds through an upgrade. */}}
{{- define "dapr.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dapr.workloadLabels" . | nindent 4 }}
spec:
  {{- with .root.Values.global.ha.disruption }}
  {{- if and .minimumAvailable .maximumUnavailable }}
  {{- fail "global.ha.disruption: a budget has minimumAvailable or maximumUnavailable, set the other one to \"\"" }}
  {{- end }}
  {{- /* A minimum of none is no minimum. A maximum of none holds every pod, where no minimum speaks for itself. */}}
  {{- if .minimumAvailable }}
  minAvailable: {{ .minimumAvailable }}
  {{- else if not (has .maximumUnavailable (list nil "")) }}
  maxUnavailable: {{ .maximumUnavailable }}
  {{- end }}
  {{- end }}
  selector:
    matchLabels:
      app: {{ .app }}
{{- end -}}


{{/* The one namespace the operator looks at, if it is one. Without rights in others there is no choice. */}}
{{- define "dapr.watchNamespace" -}}
{{- if .Values.watchNamespace -}}
{{ .Values.watchNamespace }}
{{- else if .Values.global.rbac.namespaced -}}
{{ .Release.Namespace }}
{{- end -}}
{{- end -}}

{{/*
A webhook serves on until the API server comes to it no more: what is passed by because nobody answers starts without its
sidecar. Older clusters have no such action.
*/}}
{{- define "dapr.webhookEnd" -}}
{{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}
lifecycle:
  preStop:
    sleep:
      seconds: 3
{{- end }}
{{- end -}}
