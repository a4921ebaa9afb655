{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{- define "attnserve.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "attnserve.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "attnserve.labels" -}}
{{ include "attnserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "attnserve.image" -}}
{{- $suffix := ternary "-gpu" "" .Values.gpu.enabled -}}
{{- printf "%s:%s" .Values.image.repository (default (printf "%s%s" .Chart.AppVersion $suffix) .Values.image.tag) -}}
{{- end -}}

{{/* With TLS, probes and scrapes use a port without it. */}}
{{- define "attnserve.pagesPort" -}}
{{- ternary "plain" "http" (ne .Values.tls.secretName "") -}}
{{- end -}}
