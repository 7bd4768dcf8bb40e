{{/* What the operator may do where it serves: everywhere, or in its own namespace. */}}
{{- define "dapr_rbac.operator" -}}
# Services of annotated workloads, which own them.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments/finalizers, statefulsets/finalizers]
  verbs: [update]
{{- if .Values.global.operator.otherWorkloads }}
# Kinds of other groups need rules of their own.
- apiGroups: [apps]
  resources: [replicasets, daemonsets]
  verbs: [get]
- apiGroups: [apps]
  resources: [replicasets/finalizers, daemonsets/finalizers]
  verbs: [update]
{{- end }}
{{- if .Values.global.argoRolloutServiceReconciler.enabled }}
- apiGroups: [argoproj.io]
  resources: [rollouts]
  verbs: [list, watch]
- apiGroups: [argoproj.io]
  resources: [rollouts/finalizers]
  verbs: [update]
{{- end }}
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, update]
# Which Configuration an app has; pods that missed their sidecar.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete{{ if .Values.global.operator.watchdogCanPatchPodLabels }}, patch{{ end }}]
# Secrets that resources refer to.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# What is wrong with a resource is said on it.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [dapr.io]
  resources: [components, configurations, subscriptions, resiliencies, httpendpoints, mcpservers, workflowaccesspolicies]
  verbs: [list, watch]
{{- end -}}
